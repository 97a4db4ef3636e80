"""Hard negatives: of the train split alone, none of them right, the nearest first, the same every time."""

import math
import sys

import numpy as np
import pytest
import torch
from pair_data import dataset, made_up, spec, store, texts

from arch import checkpoint, prompts, registry, tensors
from arch.encoding import load_encoder
from arch.errors import DataError, SpecError
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.data import bm25, mining
from experiments.data.pair import Negatives, Pair, Part
from experiments.data.split import SPLITS
from experiments.data.tokenizers.byte import Byte

PLACE = ("data", "source")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path):
    return {"type": "pairs", "files": [store(tmp_path / "pairs.jsonl", made_up())]}


def mined(pairs, scores, candidates=None, **options):
    """The negatives of pairs whose similarities are given, a row per query."""
    candidates = candidates or list(dict.fromkeys(pair.positive for pair in pairs))
    rows = iter(np.asarray(scores, dtype=np.float32))
    return mining.chosen(pairs, candidates, rows, Negatives(**options), PLACE, nothing_in_common=-math.inf)


def test_the_nearest_are_taken_first_and_the_positive_never():
    pairs = [Pair(f"q{i}", f"p{i}") for i in range(4)]
    found = mined(pairs, [[9, 3, 1, 2], [1, 9, 1, 1], [0, 5, 9, 5], [-1, -2, -3, 9]], k=2)
    assert found.texts == [("p1", "p3"), ("p0", "p2"), ("p1", "p3"), ("p0", "p1")] and not found.remarks


def test_what_is_right_is_no_negative_though_it_is_written_otherwise():
    pairs = [Pair("how?", "so"), Pair("How? ", "or so"), Pair("what", "So  "), Pair("why", "how?"), Pair("when", "now")]
    found = mined(pairs, np.ones((5, 5)), k=1).texts
    assert found[0] == ("now",), "not `or so` (of the same question), `So  ` (the same text) or `how?` (the question)"
    assert found[1] == ("now",) and found[2] == ("or so",) and found[3] == ("so",)
    twice = [Pair("one", "a"), Pair("two", "a"), Pair("three", "b")]
    assert mined(twice, np.ones((3, 2)), k=1).texts == [("b",), ("b",), ("a",)], "each text is one candidate"


def test_a_negative_stays_below_a_share_of_the_positive():
    pairs = [Pair(f"q{i}", f"p{i}") for i in range(4)]
    scores = [[1.0, 0.99, 0.9, 0.5]] * 4
    assert mined(pairs[:1], scores[:1], [pair.positive for pair in pairs], k=2, below=0.95).texts == [("p2", "p3")]
    found = mined(pairs[:1], scores[:1], [pair.positive for pair in pairs], k=3, below=0.95)
    assert found.texts == [("p2", "p3", "p1")], "what is missing is drawn from the rest"
    assert found.remarks == [
        "hard negatives by bm25: for 1 of 1 training pairs, some are drawn at random: too few other positives near them"
    ]


def test_equal_scores_are_in_the_order_of_the_candidates_and_as_a_sort_gives_them():
    draw = np.random.default_rng(0)
    pairs = [Pair(f"q{i}", f"p{i}") for i in range(50)]
    scores = draw.integers(0, 5, (50, 50))
    for k in (1, 7, 49):
        found = mined(pairs, scores, k=k).texts
        for i, row in enumerate(scores):
            order = sorted((j for j in range(50) if j != i), key=lambda j: (-row[j], j))
            assert found[i] == tuple(f"p{j}" for j in order[:k])


def test_too_few_candidates_are_refused():
    pairs = [Pair(f"q{i}", f"p{i}") for i in range(3)]
    with pytest.raises(
        DataError, match="3 hard negatives per pair: the train split has 3 different positives, 1 of them right"
    ) as error:
        mined(pairs, np.ones((3, 3)), k=3)
    assert error.value.key == (*PLACE, "negatives", "k")


def test_pairs_that_have_negatives_are_not_mined():
    with pytest.raises(DataError, match="the pairs have hard negatives already; expected null"):
        mining.mine([Pair("q", "p", ("n",))], Part(negatives=Negatives()), PLACE)


def test_vectors_give_the_products_in_chunks():
    query_ND, candidate_MD = torch.randn(600, 8), torch.randn(37, 8)
    rows = torch.from_numpy(np.stack([*mining.similarities(query_ND, candidate_MD)]))
    torch.testing.assert_close(rows, query_ND @ candidate_MD.T)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "encoder"}, "`by: encoder` needs the folder of an encoder"),
        ({"checkpoint": "mine"}, "`by: bm25` takes none"),
        ({"k": 0}, "greater than or equal to 1"),
        ({"by": "words"}, "by"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text, source):
    with pytest.raises(SpecError, match=text):
        spec({**source, "negatives": options})


# By BM25.


def test_words_of_code_and_of_text():
    assert bm25.words("readLine(HTTPServer, max_2_size) größer") == ["read", "line", "http", "server", "max", "size", "größer"]
    assert bm25.words("12 + 3") == []


def test_bm25_is_the_formula_of_lucene():
    pytest.importorskip("bm25s")
    documents = ["a b b c", "b d", "e f g a", "h"]
    lists = [bm25.words(each) for each in documents]
    mean = sum(map(len, lists)) / len(lists)

    def score(query, words):
        total = 0.0
        for word in query:
            holding = sum(word in each for each in lists)
            inverse = math.log(1 + (len(lists) - holding + 0.5) / (holding + 0.5))
            count = words.count(word)
            total += inverse * count / (count + bm25.K1 * (1 - bm25.B + bm25.B * len(words) / mean))
        return total

    for query, found in zip(queries := ["b", "a d z", "b b", "z", "1"], bm25.scores(queries, documents), strict=True):
        assert found == pytest.approx([score(bm25.words(query), words) for words in lists], abs=1e-6), query
    assert [each.tolist() for each in bm25.scores(["a"], ["1", "2"])] == [[0, 0]]


def test_without_the_package_the_error_has_the_command(monkeypatch, source):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(DataError, match=r"BM25 needs the package bm25s: pip install -e '.\[bm25\]'") as error:
        dataset({**source, "negatives": {}})
    assert error.value.key == ("data", "source", "negatives", "by")


def test_negatives_are_positives_of_other_training_pairs_and_the_same_every_time(source, tmp_path):
    pytest.importorskip("bm25s")
    plain, hard = dataset(source), dataset({**source, "negatives": {"k": 2}})
    positives = {pair.positive for pair in plain.pairs("train")}
    assert plain.fingerprint != hard.fingerprint != dataset({**source, "negatives": {"k": 1}}).fingerprint
    assert plain.tokenizer.to_str() == hard.tokenizer.to_str()
    for pair in hard.pairs("train"):
        assert len(pair.negatives) == 2 and pair.positive not in pair.negatives and {*pair.negatives} <= positives
    for split in ("select", "report"):
        assert hard.pairs(split) == plain.pairs(split), "what is measured has none"
        assert "negative" not in next(hard.evaluation(split, 8, 32, 8))
    assert not any(texts(hard.pairs(a)) & texts(hard.pairs(b)) for a in SPLITS for b in SPLITS if a < b)
    batch = hard.batch("train", 0, 0, 8, 64)
    assert {*batch} == {"query", "positive", "negative"} and not (
        batch["negative"].extra["text"] == batch["positive"].extra["text"]
    ).any()
    again = dataset({**source, "negatives": {"k": 2}, "files": [store(tmp_path / "moved.jsonl", made_up())]})
    assert again.fingerprint == hard.fingerprint and again.pairs("train") == hard.pairs("train")


def test_the_negatives_of_a_query_share_its_words(tmp_path):
    pytest.importorskip("bm25s")
    things = [
        (verb, noun) for verb in ("open", "close", "read", "write", "move") for noun in ("file", "door", "book", "letter", "car")
    ]
    rows = [
        {"query": f"how to {verb} a {noun}", "positive": f"{verb} the {noun} {verb}", "group": verb + noun} for verb, noun in things
    ]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", rows)], "negatives": {"k": 1}})
    for pair in made.pairs("train"):
        assert {*pair.query.split()} & {*pair.negatives[0].split()} - {"a", "to", "the", "how"}, pair


def test_a_query_without_a_known_word_gets_drawn_negatives_and_a_note(tmp_path):
    pytest.importorskip("bm25s")
    rows = [{"query": f"{i}", "positive": f"answer {'abcdefghij'[i % 10]} {i}"} for i in range(200)]
    made = dataset({"type": "pairs", "files": [store(tmp_path / "a.jsonl", rows)], "negatives": {"k": 2}})
    train = made.pairs("train")
    assert all(len({*pair.negatives, pair.positive}) == 3 for pair in train) and len({pair.negatives for pair in train}) > 50
    said = f"bm25: for {len(train)} of {len(train)} training pairs, some are drawn at random: too few words in common"
    assert any(said in note for note in made.notes) and any(said in note for note in made.summary()["remarks"])


def test_each_part_of_a_mixture_is_mined_on_its_own(source, tmp_path):
    pytest.importorskip("bm25s")
    other = {"type": "pairs", "files": [store(tmp_path / "b.jsonl", made_up(seed=5))]}
    made = dataset({"type": "mix", "parts": {"a": {"source": source}, "b": {"source": {**other, "negatives": {"k": 1}}}}})
    of = {name: [pair for pair in made.pairs("train") if pair.part == name] for name in ("a", "b")}
    assert {len(pair.negatives) for pair in of["a"]} == {0} and {len(pair.negatives) for pair in of["b"]} == {1}
    assert {pair.negatives[0] for pair in of["b"]} <= {pair.positive for pair in of["b"]}
    for step in range(8):
        batch = made.batch("train", step, 0, 8, 32)
        part = made.pairs("train")[int(batch["query"].key_B[0])].part
        assert ("negative" in batch) == (part == "b")
    too_many = {"a": {"source": source}, "b": {"source": {**other, "negatives": {"k": 1000}}}}
    with pytest.raises(DataError, match="1000 hard negatives per pair: the train split has") as error:
        dataset({"type": "mix", "parts": too_many})
    assert error.value.key == ("data", "source", "parts", "b", "source", "negatives", "k")


# By an encoder.


@pytest.fixture
def encoder(tmp_path):
    """The checkpoint of a small encoder with random weights, a byte tokenizer and prompts."""
    spec = {"dim": 16, "vocab_size": 259, "layers": 1, "pattern": ["all"], "pool": {"type": "mean"}}
    mixer = {"type": "attention", "heads": 2, "head_dim": 8, "causal": False}
    model = new_model(registry.resolve(ModelSpec.parse({**spec, "blocks": {"all": {"mixer": mixer}}})), seed=0)
    folder = tmp_path / "encoder"
    folder.mkdir()
    checkpoint.write(model.spec, tensors.of_mapping(dict(model.state_dict())), folder)
    Byte(Byte.Config()).train([]).save(str(folder / checkpoint.TOKENIZER))
    prompts.keep({"query": "q: ", "document": "d: "}, 64, folder)
    return folder


def test_an_encoder_mines_what_its_vectors_say(source, encoder):
    mining_options = {"by": "encoder", "checkpoint": str(encoder), "k": 2}
    made = dataset({**source, "negatives": mining_options})
    train = made.pairs("train")
    loaded = load_encoder(encoder)
    candidates = list(dict.fromkeys(pair.positive for pair in train))
    query_NE = loaded.encode([pair.query for pair in train], task="query")
    scores_NM = query_NE @ loaded.encode(candidates, task="document").T
    for pair, score_M in zip(train, scores_NM, strict=True):
        own = candidates.index(pair.positive)
        best = np.sort(np.delete(score_M, own))[:-3:-1]
        assert score_M[[candidates.index(text) for text in pair.negatives]] == pytest.approx(best, abs=1e-5)
        assert pair.positive not in pair.negatives
    moved = encoder.rename(encoder.with_name("moved"))
    again = dataset({**source, "negatives": {**mining_options, "checkpoint": str(moved)}})
    assert again.fingerprint == made.fingerprint and again.folder == made.folder
    prompts.keep({"query": "other: ", "document": "d: "}, 64, moved)
    assert dataset({**source, "negatives": {**mining_options, "checkpoint": str(moved)}}).folder != made.folder


def test_a_checkpoint_that_is_no_encoder_is_named(source, encoder, tmp_path):
    options = {"by": "encoder", "checkpoint": str(tmp_path / "none")}
    with pytest.raises(DataError, match=r"none: no model\.safetensors in it; expected the checkpoint of an encoder") as error:
        dataset({**source, "negatives": options})
    assert error.value.key == ("data", "source", "negatives", "checkpoint")
    prompts.keep({"summary": "s: "}, 64, encoder)
    with pytest.raises(DataError, match="no prompt 'query'") as error:
        dataset({**source, "negatives": {**options, "checkpoint": str(encoder)}})
    assert error.value.key == ("data", "source", "negatives", "checkpoint")
