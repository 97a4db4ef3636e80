"""Pairs of texts: batches are pure functions, no text is in two splits, rows are cut with <eos> kept; fingerprints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_data import dataset, made_up, spec, store, texts

from arch.errors import DataError, SpecError
from arch.texts_to_rows import rows_of
from experiments.data import mixture, pair_corpus, pair_files, pair_splits
from experiments.data.dataset import prepare
from experiments.data.encoded import text_number
from experiments.data.pair import Pair, Prompts
from experiments.data.split import SPLITS, split_of
from experiments.plan import resolve


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path):
    return {"type": "pairs", "files": [store(tmp_path / "pairs.jsonl", made_up())]}


@pytest.fixture
def hard(tmp_path):
    """Pairs with 2 or 3 hard negatives each."""
    rows = [row | {"negatives": [f"wrong {i} {k}" for k in range(2 + i % 2)]} for i, row in enumerate(made_up())]
    return {"type": "pairs", "files": [store(tmp_path / "hard.jsonl", rows)]}


@pytest.fixture
def mix(tmp_path):
    """Three parts of different size and weight; one is never trained on."""
    parts = {}
    for seed, (name, groups, weight) in enumerate([("small", 40, 1.0), ("large", 90, 3.0), ("measured", 40, 0.0)]):
        rows = [{key: f"{name} {value}" for key, value in row.items()} for row in made_up(groups, seed=seed)]
        prompts = {"query": f"{name[0]}: ", "document": ""}
        files = [store(tmp_path / f"{name}.jsonl", rows)]
        parts[name] = {"source": {"type": "pairs", "files": files, "prompts": prompts}, "weight": weight}
    return {"type": "mix", "parts": parts}


def same(one, other):
    assert one.keys() == other.keys()
    tensors = lambda rows: (rows.tokens_BT, rows.layout.doc_BT, rows.layout.pos_BT, rows.key_B, rows.extra["text"])  # noqa: E731
    return all(torch.equal(a, b) for kind in one for a, b in zip(tensors(one[kind]), tensors(other[kind]), strict=True))


def test_a_batch_is_a_pure_function_of_its_arguments(source):
    made, again = dataset(source), dataset(source)
    batch = made.batch("train", 5, 3, 8, 32)
    assert {*batch} == {"query", "positive"} and batch.rows == batch.weight == 8
    for step in (0, 9, 5):
        assert same(made.batch("train", step, 3, 8, 32), again.batch("train", step, 3, 8, 32))
    assert same(batch, made.batch("train", 5, 3, 8, 32)) and not torch.equal(
        batch["query"].key_B, made.batch("train", 5, 4, 8, 32)["query"].key_B
    )
    assert same(made.numbered("train", batch["query"].key_B, 32), batch)


def test_an_epoch_reads_each_training_pair_once_in_an_order_of_the_seed(source):
    made = dataset(source)
    available = made.rows("train", 32)
    assert available % 8, "the last batch of an epoch goes on with the next"
    read = torch.cat([made.batch("train", step, 1, 8, 32)["query"].key_B for step in range(2 * available // 8 + 1)])
    first, second = read[:available], read[available : 2 * available]
    assert first.sort().values.equal(torch.arange(available)) and second.sort().values.equal(torch.arange(available))
    assert not first.equal(second) and not first.equal(first.sort().values)
    numbers = made.numbers("train", 3, 1, 8, 32)
    assert numbers.tolist() == sorted(read[:24].tolist()) and len(made.numbers("train", 1000, 1, 8, 32)) == available


def test_rows_hold_the_texts_of_their_pairs(source):
    made = dataset(source, context=256)
    for split in SPLITS:
        pairs, batch = made.pairs(split), made.numbered(split, [0, 3, 1], 256)
        for i, number in enumerate((0, 3, 1)):
            for kind, prompt, text in (("query", "query", pairs[number].query), ("positive", "document", pairs[number].positive)):
                rows = batch[kind]
                tokens = rows.tokens_BT[i][rows.layout.seen_BT[i]].tolist()
                assert tokens[0] == made.ends.bos and tokens[-1] == made.ends.eos
                assert made.tokenizer.decode(tokens) == made.prompts[prompt] + text
                assert (rows.tokens_BT[i][~rows.layout.seen_BT[i]] == made.tokenizer.token_to_id("<pad>")).all()
                assert int(rows.extra["text"][i]) == text_number(text) and 0 <= text_number(text) < 2**63
            assert batch["query"].layout.seen_BT.any(0).all(), "as wide as the longest row"


def test_a_long_text_is_cut_and_its_end_is_kept(source):
    made = dataset(source, context=40)
    whole = dataset(source, context=256)
    assert made.fingerprint == whole.fingerprint
    numbers = np.arange(made.rows("train", 40))
    short, long = (each.numbered("train", numbers, context)["positive"] for each, context in ((made, 40), (whole, 256)))
    lengths, cut = long.layout.seen_BT.sum(1), 0
    for i in numbers:
        row, length = short.tokens_BT[i], int(lengths[i])
        if length > 40:
            cut += 1
            assert row[-1] == made.ends.eos and row[:-1].equal(long.tokens_BT[i, :39])
        else:
            assert row[:length].equal(long.tokens_BT[i, :length]) and short.layout.seen_BT[i].sum() == length
    assert 0 < cut < len(numbers)
    about = made.summary()["cut"]["documents"]
    assert about["texts"] == 240 and cut < about["cut"] < 240 and not whole.summary()["cut"]["documents"]["cut"]
    said = f"{about['cut']} of 240 documents have more than 40 tokens with their prompt (up to {about['longest']}) and are cut"
    assert any(said in note for note in made.notes) and not any("cut" in note for note in whole.notes)


@pytest.mark.parametrize("context", [3, 12, 40, 256])
@pytest.mark.parametrize("kind", ["query", "document"])
def test_what_of_a_text_is_within_its_row_gives_the_same_row(source, kind, context):
    made = dataset(source, context=40)
    texts = [*(pair.positive for pair in made.pairs("report")[:8]), "größer als 1 😀 und ☂" * 30, "a"]
    kept = made.within(texts, kind, context)
    assert all(text.startswith(part) for text, part in zip(texts, kept, strict=True))
    assert len(kept[-2]) < len(texts[-2])
    for text, part in zip(texts, kept, strict=True):
        row, again = (made.encoded([each], kind, context).tokens_BT[0] for each in (text, part))
        written, rewritten = (made.tokenizer.decode(each.tolist(), skip_special_tokens=True) for each in (row, again))
        assert rewritten == written or (len(written) < len(made.prompts[kind]) and part == "") or "\ufffd" in written
    with pytest.raises(ValueError, match="no prompt for the kind 'positive'"):
        made.within(["a"], "positive", context)


def test_any_text_is_encoded_as_in_training(source):
    made = dataset(source)
    pairs, batch = made.pairs("report")[:5], made.numbered("report", range(5), 32)
    for kind, rows, written in (
        ("query", batch["query"], [pair.query for pair in pairs]),
        ("document", batch["positive"], [pair.positive for pair in pairs]),
    ):
        encoded = made.encoded(written, kind, 32)
        assert encoded.tokens_BT.equal(rows.tokens_BT) and encoded.layout.doc_BT.equal(rows.layout.doc_BT)
        assert encoded.extra["text"].equal(rows.extra["text"])
    with pytest.raises(ValueError, match="no prompt for the kind 'positive'; expected query or document"):
        made.encoded(["a"], "positive", 32)


def test_rows_are_those_that_an_encoder_reads(source):
    made = dataset(source)
    pairs = made.pairs("train")[:9]
    for kind, written in (("query", [pair.query for pair in pairs]), ("document", [pair.positive for pair in pairs])):
        tokens_BT, length_B, cut = rows_of(made.tokenizer, made.ends, written, made.prompts[kind], 32)
        rows = made.numbered("train", range(9), 32)["query" if kind == "query" else "positive"]
        assert rows.tokens_BT.equal(tokens_BT) and rows.layout.seen_BT.sum(1).equal(length_B) and cut >= 0


def test_prompt_and_text_become_tokens_together(source):
    made = dataset({**source, "prompts": {"query": "what", "document": "an"}})
    text = next(pair.query for pair in made.pairs("train"))
    tokens = made.encoded([" is"], "query", 32).tokens_BT[0].tolist()
    assert tokens == [made.ends.bos, *made.tokenizer.encode("what is").ids, made.ends.eos] and text.startswith("what is")


def test_groups_stay_together_and_no_text_is_in_two_splits(tmp_path):
    rows = made_up()
    report = next(row for row in rows if split_of(sha(row["group"]), pair_splits.FRACTIONS) == "report")
    copies = [{"query": f"copy {i}", "positive": report["positive"], "group": f"other {i}"} for i in range(40)] + [
        {"query": report["query"], "positive": f"another answer {i}", "group": f"one more {i}"} for i in range(40)
    ]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", copies + rows)]})
    held = {split: made.pairs(split) for split in SPLITS}
    groups, words = ([{*map(of, pairs)} for pairs in held.values()] for of in (lambda pair: pair.group, lambda pair: pair.texts))
    assert sum(map(len, groups)) == len(set.union(*groups)) and all(words)
    assert not any(texts(held[a]) & texts(held[b]) for a in SPLITS for b in SPLITS if a < b)
    left = made.summary()["skipped"][pair_splits.ELSEWHERE]["count"]
    assert left > 0 and sum(map(len, held.values())) + left == 320
    assert Pair(report["query"], report["positive"], group=report["group"]) in held["report"], "what is measured stays"
    assert made.summary()["splits"]["train"] == {
        "pairs": len(held["train"]), "groups": len(groups[0]), "tokens": made.sizes["train"]["tokens"]
    }  # fmt: skip


def sha(text):
    import hashlib

    return hashlib.sha256(text.encode()).digest()


def test_without_groups_pairs_of_the_same_positive_stay_together(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i // 2}"} for i in range(400)]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", rows)]})
    assert "skipped" not in made.summary() and sum(made.rows(split, 32) for split in SPLITS) == 400
    shares = [made.rows(split, 32) / 400 for split in SPLITS]
    assert shares == pytest.approx([*pair_splits.FRACTIONS.values()], abs=0.06)
    assert f"{made.rows('train', 32)} training pairs share their positive with another one" in made.notes


def test_only_the_train_split_teaches_the_tokenizer_and_each_text_once(source, tmp_path, monkeypatch):
    from experiments.data.tokenizers.bpe import BPE

    taught = []
    train = BPE.train
    monkeypatch.setattr(BPE, "train", lambda self, written: taught.append(written) or train(self, written))
    rows = made_up()
    made = dataset(
        {**source, "files": [store(tmp_path / "b.jsonl", [*rows, *({**row, "query": "more " + row["query"]} for row in rows)])]}
    )
    assert len(taught) == 1 and len(taught[0]) == len({*taught[0]}) and {*taught[0]} == texts(made.pairs("train"))


def test_all_splits_hold_every_pair_where_the_spec_says_so(source):
    made = dataset(source, splits="all")
    assert all(len(made.pairs(split)) == 240 for split in SPLITS)


FINGERPRINT = {
    "the query's prompt": (lambda source: {**source, "prompts": {"query": "q: "}}, True),
    "the document's prompt": (lambda source: {**source, "prompts": {"document": "d: "}}, True),
    "the same prompts, written": (lambda source: {**source, "prompts": Prompts().dump()}, False),
    "a text": (lambda source: rewritten(source, lambda row, i: row | ({"query": "another"} if i == 7 else {})), True),
    "a positive": (lambda source: rewritten(source, lambda row, i: row | ({"positive": "another"} if i == 7 else {})), True),
    "a group": (lambda source: rewritten(source, lambda row, i: row | ({"group": "another"} if i == 7 else {})), True),
    "a label": (lambda source: rewritten(source, lambda row, i: row | {"label": "a"}), True),
    "the order": (lambda source: rewritten(source, lambda row, i: row, slice(None, None, -1)), True),
    "negatives": (lambda source: rewritten(source, lambda row, i: row | {"negatives": [f"no {i}"]}), True),
    "the name of the file": (lambda source: rewritten(source, lambda row, i: row), False),
    "a key that nobody reads": (lambda source: rewritten(source, lambda row, i: row | {"more": i}), False),
}


def rewritten(source, change, order=slice(None)):
    """The source with its rows changed, in another file."""
    rows = [json.loads(line) for line in Path(source["files"][0]).read_text().splitlines()]
    return {**source, "files": [store(Path("other.jsonl"), [change(row, i) for i, row in enumerate(rows)][order])]}


@pytest.mark.parametrize("what", FINGERPRINT)
def test_the_fingerprint_changes_with_what_decides_the_rows_and_with_nothing_else(what, source):
    change, differs = FINGERPRINT[what]
    before, after = dataset(source), dataset(change(source))
    assert (before.fingerprint != after.fingerprint) is differs
    if not differs:
        assert same(before.batch("train", 3, 0, 8, 32), after.batch("train", 3, 0, 8, 32))


def test_the_fingerprint_covers_the_tokenizer_and_not_the_context_or_the_rows(source):
    made = dataset(source)
    assert dataset(source, {"type": "bpe", "vocab_size": 310}).fingerprint != made.fingerprint
    assert dataset(source, context=64, rows=4).fingerprint == made.fingerprint


def test_a_second_prepare_reads_and_encodes_nothing(source, monkeypatch):
    made = dataset(source)
    monkeypatch.setattr(pair_splits, "read", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(pair_corpus, "_build", lambda *_: pytest.fail("built again"))
    assert dataset(source).fingerprint == made.fingerprint
    from experiments.data import texts as memory

    monkeypatch.setattr(memory, "_KNOWN", {})
    assert dataset(source).fingerprint == made.fingerprint, "nor does another process"


def test_a_changed_file_is_read_again(source):
    made = dataset(source)
    Path(source["files"][0]).write_text(
        Path(source["files"][0]).read_text() + json.dumps({"query": "new", "positive": "one"}) + "\n"
    )
    assert dataset(source).fingerprint != made.fingerprint


def test_a_damaged_cache_is_named(source):
    made = dataset(source)
    (made.folder / "starts.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=f"{made.folder}: the token cache is damaged .*delete this folder"):
        dataset(source)


def test_hard_negatives_come_in_turn(hard):
    made = dataset(hard)
    available = made.rows("train", 32)
    pairs = made.pairs("train")
    for epoch in range(4):
        step = epoch * available  # one row per step: this is the first row of the epoch
        batch = made.batch("train", step, 0, 1, 64)
        pair = pairs[int(batch["query"].key_B[0])]
        text = made.tokenizer.decode(batch["negative"].tokens_BT[0].tolist())
        assert text == made.prompts["document"] + pair.negatives[epoch % len(pair.negatives)]
        assert {len(each.negatives) for each in pairs} == {2, 3}
    for batch in made.evaluation("report", 10, 32, 4):
        assert {*batch} == {"query", "positive", "negative"}
        first = [text_number(made.pairs("report")[number].negatives[0]) for number in batch["negative"].key_B.tolist()]
        assert batch["negative"].extra["text"].tolist() == first


def test_an_evaluation_is_the_same_for_every_seed_and_its_batches_are_of_nearly_equal_size(source):
    made = dataset(source)
    available = made.rows("report", 32)
    for rows in (5, 9, available, 1000):
        sizes = [batch.rows for batch in made.evaluation("report", rows, 32, 8)]
        assert sum(sizes) == min(rows, available) and max(sizes) <= 8 and max(sizes) - min(sizes) <= 1
    numbers = torch.cat([batch["query"].key_B for batch in made.evaluation("report", 1000, 32, 8)])
    assert numbers.sort().values.equal(torch.arange(available)) and not numbers.equal(numbers.sort().values)


# A mixture.


def test_a_batch_comes_from_one_part_drawn_by_weight(mix):
    made = dataset(mix)
    drawn = {"small": 0, "large": 0, "measured": 0}
    seen = {"small": [], "large": []}
    for step in range(200):
        batch = made.batch("train", step, 2, 8, 32)
        assert step > 3 or same(batch, dataset(mix).batch("train", step, 2, 8, 32))
        parts = {made.pairs("train")[number].part for number in batch["query"].key_B.tolist()}
        assert len(parts) == 1
        drawn[part := parts.pop()] += 1
        seen[part] += batch["query"].key_B.tolist()
        assert made.tokenizer.decode(batch["query"].tokens_BT[0].tolist()).startswith(f"{part[0]}: ")
    assert drawn["measured"] == 0 and 120 < drawn["large"] < 180
    for part, numbers in seen.items():
        first, available = made.splits["train"].first[part]
        epoch = numbers[:available]
        assert sorted(epoch) == [*range(first, first + available)] or len(numbers) < available, "each part has its own epochs"
    assert made.numbers("train", 200, 2, 8, 32).tolist() == sorted({*seen["small"], *seen["large"]})


def test_which_part_a_step_reads_does_not_depend_on_where_one_begins():
    weights = (("a", 1.0), ("b", 2.0), ("c", 0.0))
    counts = {"a": 0, "b": 0, "c": 0}
    for step in range(9000):
        name, before = mixture.part_of(weights, 7, step)
        assert before == counts[name] or step < 8990, "how many earlier steps read it"
        counts[name] += 1
    assert mixture.counts(weights, 7, 9000) == counts and counts["c"] == 0
    assert abs(counts["a"] / 9000 - 1 / 3) < 0.02
    assert [mixture.part_of(weights, 8, step)[0] for step in range(50)] != [
        mixture.part_of(weights, 7, step)[0] for step in range(50)
    ]


def test_parts_are_measured_alike_whatever_their_weights(mix):
    made = dataset(mix)
    other = {**mix, "parts": {name: {**part, "weight": 5.0} for name, part in mix["parts"].items()}}
    again = dataset(other)
    assert made.fingerprint != again.fingerprint and made.tokenizer.to_str() == again.tokenizer.to_str()
    rows = [*made.evaluation("report", 30, 32, 8)]
    assert all(same(one, two) for one, two in zip(rows, again.evaluation("report", 30, 32, 8), strict=True))
    parts = [{made.pairs("report")[number].part for number in batch["query"].key_B.tolist()} for batch in rows]
    assert all(len(each) == 1 for each in parts) and set.union(*parts) == {*mix["parts"]}
    counted = {name: sum(batch.rows for batch, each in zip(rows, parts, strict=True) if name in each) for name in mix["parts"]}
    assert {*counted.values()} == {10}
    twice = {**mix, "parts": {name: {**part, "weight": 2 * part["weight"]} for name, part in mix["parts"].items()}}
    assert dataset(twice).fingerprint == made.fingerprint, "only shares count"


def test_equal_shares():
    assert mixture.equal_shares([5, 100, 100], 65) == [5, 30, 30]
    assert mixture.equal_shares([100, 100], 31) == [16, 15]
    assert mixture.equal_shares([3, 4], 100) == [3, 4]


def test_the_prompts_of_a_mixture_are_named(mix):
    made = dataset(mix)
    assert made.prompts == {"query": "s: ", "document": ""} | {
        f"{name}-{kind}": {"query": f"{name[0]}: ", "document": ""}[kind] for name in mix["parts"] for kind in ("query", "document")
    }
    assert made.encoded(["x"], "document", 32).tokens_BT.shape == (1, 3)
    with pytest.raises(ValueError, match="the parts small, large and measured have different prompts; expected the name of one"):
        made.encoded(["x"], "query", 32)
    first = made.encoded(["x"], "query", 32, part="large").tokens_BT[0].tolist()
    assert made.tokenizer.decode(first) == "l: x"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda parts: {"one": parts["small"]}, "expected at least two parts"),
        (lambda parts: {name: {**part, "weight": 0.0} for name, part in parts.items()}, "one of them with a weight above 0"),
        (lambda parts: parts | {"a b": parts["small"]}, "the name 'a b' of a part: expected letters"),
        (
            lambda parts: parts | {"text": {"source": {"type": "python_stdlib"}}},
            "python_stdlib has no pairs of texts; expected a source",
        ),
        (
            lambda parts: parts | {"mix": {"source": {"type": "mix", "parts": parts}}},
            "expected a source of pairs that is no mixture",
        ),
        (lambda parts: parts | {"less": {**parts["small"], "weight": -1.0}}, "greater than or equal to 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(change, text, mix):
    with pytest.raises(SpecError, match=text):
        spec({**mix, "parts": change(mix["parts"])})


def test_an_error_in_a_part_is_at_its_place(mix):
    mix["parts"]["small"]["source"]["files"] = ["gone.jsonl"]
    with pytest.raises(DataError, match=r"no file matches 'gone\.jsonl'"):
        dataset(mix)
    Path("bad.jsonl").write_text('{"query": "a"}\n')
    mix["parts"]["small"]["source"]["files"] = ["bad.jsonl"]
    with pytest.raises(DataError, match=r"the part small: bad.jsonl:1: no key 'positive'") as error:
        dataset(mix)
    assert error.value.key == ("data", "source", "parts", "small", "source", "columns")


# Bad input.


def test_groups_that_share_a_text_in_all_splits_are_refused(tmp_path):
    rows = made_up(negatives=["the same everywhere"])
    refused("the train split has no pair: a text of each of its \\d+ pairs is in another split too; expected groups that share",
            {"type": "pairs", "files": [store(tmp_path / "a.jsonl", rows)]})  # fmt: skip
    for row in rows:
        row["negatives"] = ["the same everywhere", f"another {row['query']}"]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", rows)]})
    assert {len(pair.negatives) for pair in made.pairs("report")} == {2}, "they are first"
    assert {len(pair.negatives) for split in ("train", "select") for pair in made.pairs(split)} == {1}


def refused(match, source, key=None, **more):
    with pytest.raises(DataError, match=match) as error:
        dataset(source, **more)
    assert key is None or error.value.key == key


def test_too_few_pairs_are_refused(tmp_path):
    one = {"type": "pairs", "files": [store(tmp_path / "one.jsonl", made_up(1, 1))]}
    refused(r"the \w+ split has no pair: the source pairs has 1 pair in 1 group, and groups are split whole, by their name "
            r"\(0.75 train, 0.125 select, 0.125 report\); give more groups", one)  # fmt: skip
    group = {"type": "pairs", "files": [store(tmp_path / "group.jsonl", made_up(1, 50))]}
    refused("split has no pair: the source pairs has 50 pairs in 1 group", group)


def test_more_rows_than_pairs_are_refused(source):
    available = dataset(source).rows("train", 32)
    text = f"500 rows of a batch are different pairs, but the train split has {available} pairs; expected at most so many"
    refused(text, source, ("data", "rows"), rows=500)
    with pytest.raises(DataError, match="the report split has"):
        dataset(source).batch("report", 0, 0, 100, 32)


def test_a_prompt_that_leaves_no_room_is_refused(source):
    refused(r"8 tokens are no more than the prompt of a query takes: 'task: search result \| query: ' takes \d+", source,
            ("data", "context"), context=8)  # fmt: skip


def test_pairs_need_a_tokenizer_and_an_objective_for_pairs(source, tiny):
    with pytest.raises(DataError, match="missing: the source pairs gives pairs of texts") as error:
        prepare(spec(source).model_copy(update={"tokenizer": None}), 300)
    assert error.value.key == ("data", "tokenizer")
    tiny["data"] = {"source": source, "tokenizer": {"type": "byte"}, "context": 64, "rows": 4}
    with pytest.raises(SpecError, match="next_token needs `rows`"):
        resolve(tiny)


def test_useless_pairs_are_left_out_and_counted(tmp_path):
    rows = made_up()
    extra = [rows[0], rows[0], {"query": "the same", "positive": "the same"}]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", [*rows, *extra])]})
    skipped = made.summary()["skipped"]
    assert skipped[pair_splits.AGAIN]["count"] == 2 and skipped[pair_splits.SAME] == {"count": 1, "first": ["'the same'"]}
    assert "skipped: pairs whose query is their positive: 1 ('the same')" in made.notes
    assert sum(made.rows(split, 32) for split in SPLITS) == 240


def test_a_text_that_the_tokenizer_changes_is_refused_left_out_or_kept(source, tmp_path):
    import tokenizers
    from tokenizers import normalizers

    from experiments.data.tokenizers.byte import Byte

    lower = Byte(Byte.Config()).train([])
    lower.normalizer = normalizers.Lowercase()
    lower.save(str(tmp_path / "lower.json"))
    tokenizer = {"type": "file", "path": str(tmp_path / "lower.json")}
    prompts = {"query": "", "document": ""}
    rows = [row | ({"query": f"LOUD {i}"} if i % 10 == 0 else {}) for i, row in enumerate(made_up())]
    loud = {"type": "pairs", "files": [store(tmp_path / "loud.jsonl", rows)], "prompts": prompts}
    refused(r"\['LOUD \d+'\], line 1 of it: the tokenizer changes this text: 'LOUD \d+' comes back .*; so are 24 of 480 texts",
            loud, ("data", "tokenizer"), tokenizer=tokenizer)  # fmt: skip
    left = dataset(loud, tokenizer, on_loss="skip")
    assert sum(left.rows(split, 32) for split in SPLITS) == 216 and left.summary()["skipped"][pair_corpus.CHANGED]["count"] == 24
    kept = dataset(loud, tokenizer, on_loss="keep")
    assert sum(kept.rows(split, 32) for split in SPLITS) == 240 and any("kept (data.on_loss: keep)" in note for note in kept.notes)
    assert isinstance(kept.tokenizer, tokenizers.Tokenizer) and kept.fingerprint != left.fingerprint


def test_a_source_of_ones_own_gives_pairs(tmp_path, monkeypatch):
    """The one of docs/pairs.md; and what is said of one that gives something else."""
    document = (Path(__file__).parents[3] / "docs" / "pairs.md").read_text()
    code = document[document.index("# own_pairs.py") :].partition("```")[0]
    (tmp_path / "own_pairs.py").write_text(code)
    (tmp_path / "own_tuples.py").write_text(code.replace("yield Pair(", "yield dict("))
    (tmp_path / "own_blanks.py").write_text(code.replace('query=f"{a} and', 'query="  " or f"{a} and'))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = dataset({"type": "own_pairs:Sums"})
    assert made.prompts == Prompts().dump() and sum(made.rows(split, 32) for split in SPLITS) == 1600
    assert all(pair.label == "sum" for pair in made.pairs("select"))
    refused("own_tuples:Sums gives dict instead of Pair", {"type": "own_tuples:Sums"})
    refused("pair 1 of the source own_blanks:Sums: the query is empty; expected text", {"type": "own_blanks:Sums"})


def test_the_files_format_is_part_of_the_key_and_not_of_the_fingerprint(source, monkeypatch):
    made = dataset(source)
    monkeypatch.setattr(pair_files, "FORMAT", 0)
    again = dataset(source)
    assert again.folder != made.folder and again.fingerprint == made.fingerprint
