"""The needle: the evaluator against a slow loop and a model that looks answers up; the task, its rows and its identity."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arch import registry
from arch.contracts import Given
from arch.document import load
from arch.errors import DataError, SpecError
from arch.model import new_model
from experiments.data import corpus, needles, texts
from experiments.data.dataset import prepare
from experiments.data.needles import Needles
from experiments.data.split import SPLITS
from experiments.evaluators.needle import SEED
from experiments.plan import identity_plugins, plan, resolve
from experiments.train import train

SHORT = "{key}: {value}."
GRID = {"type": "needle", "lengths": [48, 80], "depths": [0.0, 0.3, 1.0], "rows": 4, "template": SHORT}


@pytest.fixture
def task(tiny):
    """The tiny experiment on the task, in bytes."""
    tiny["data"] |= {"source": {"type": "needle", "haystack": tiny["data"]["source"], "template": SHORT}, "context": 56}
    return tiny


@pytest.fixture
def text(tiny):
    """The corpus of the tiny experiment."""
    spec = resolve(tiny)
    return prepare(spec.data, spec.model.vocab_size)


def given(rows=4):
    return Given(None, None, "report", 32, rows, "cpu", 0)


@torch.no_grad()
def found(model, dataset, rows=4, **options):
    """The Findings of the evaluator."""
    return registry.build("evaluator", {**GRID, **options})(model, dataset, given(rows))


def rows_of(text, length, depth, rows=4, split="report"):
    """[(tokens, answer tokens)] of one cell, made of strings; depth None for the rows without a needle."""
    drawing = Needles(SHORT, text.tokenizer)
    begins = [tokens for batch in text.long_documents(split, rows, 80, 9) for tokens in batch["text"].tokens_BT]
    made = []
    for number, begin in enumerate(begins):
        needle = drawing.draw(split, np.random.default_rng([SEED, number]))
        key = needle.text.partition(":")[0]
        assert needle.text == f"{key}: {needle.value}." and len(key) == 6 and 10_000 <= int(needle.value) < 100_000
        end = f"\n{key}: {needle.value}"
        document = text.tokenizer.decode(begin[1:].tolist())
        planted = "" if depth is None else f"{end}.\n"
        room = length - 1 - len(planted) - len(end)
        place = round((depth or 0.0) * room)
        whole = document[:place] + planted + document[place:room] + end
        made.append((torch.tensor([int(begin[0]), *text.tokenizer.encode(whole).ids]), 1 + len(needle.value)))
    assert all(len(tokens) == length for tokens, _ in made)
    return made


def test_the_grid_is_that_of_a_slow_loop(text):
    model = new_model(resolved_model(), 0).eval()
    measured = found(model, text)
    assert [(row["length"], row["depth"]) for row in measured.table] == [(n, d) for n in (48, 80) for d in (0.0, 0.3, 1.0)]
    totals = {"": np.zeros(3), "_without": np.zeros(3)}
    for row in measured.table:
        for suffix, depth in (("", row["depth"]), ("_without", None)):
            nats, right, tokens, whole = 0.0, 0, 0, 0
            for row_T, answer in rows_of(text, row["length"], depth):
                with torch.no_grad():
                    log_p = model(row_T[None])[0, -answer - 1 : -1].double().log_softmax(-1)
                target = row_T[-answer:]
                nats -= float(log_p.gather(1, target[:, None]).sum())
                hits = (log_p.argmax(-1) == target).tolist()
                right, tokens, whole = right + sum(hits), tokens + answer, whole + all(hits)
            assert row[f"nats{suffix}"] == pytest.approx(nats / tokens, rel=1e-5)
            assert row[f"accuracy{suffix}"] == right / tokens
            if not suffix or row["depth"] == 0.0:
                totals[suffix] += nats, right, tokens
        assert row["rows"] == 4 and row["found"] <= row["accuracy"]
    for suffix, (nats, right, tokens) in totals.items():
        assert measured.values[f"needle_nats{suffix}"] == pytest.approx(nats / tokens, rel=1e-5)
        assert measured.values[f"needle_accuracy{suffix}"] == pytest.approx(right / tokens)


def resolved_model():
    """A resolved ModelSpec of one global layer."""
    block = {"mixer": {"type": "attention", "heads": 2}, "ffn": {"type": "gated", "hidden": 24}}
    model = {"dim": 16, "vocab_size": 300, "layers": 1, "pattern": ["b"], "blocks": {"b": block}}
    data = {"source": {"type": "python_stdlib"}, "tokenizer": {"type": "byte"}, "context": 32, "rows": 4}
    return resolve({"model": model, "data": data, "optimizer": {"lr": 1e-3}, "train": {"steps": 1}}).model


class Lookup:
    """A model that says what followed where the last tokens stood before, and nothing where they stood nowhere."""

    head_weight, spec, memory = torch.eye(300) * 50, SimpleNamespace(logit_softcap=None, vocab_size=300), 7

    def trunk(self, tokens_BT):
        hidden_BTV = torch.zeros(*tokens_BT.shape, 300)
        for row, tokens in enumerate(tokens_BT.tolist()):
            for t in range(self.memory, len(tokens)):
                last = tokens[t - self.memory + 1 : t + 1]
                earlier = [i for i in range(self.memory, t) if tokens[i - self.memory + 1 : i + 1] == last]
                if earlier:
                    hidden_BTV[row, t, tokens[earlier[-1] + 1]] = 1.0
        return hidden_BTV, None


def test_a_model_that_looks_the_answer_up_finds_every_needle_and_without_one_it_is_at_chance(text):
    measured = found(Lookup(), text)
    assert measured.values["needle_accuracy"] == 1.0 and measured.values["needle_nats"] < 1e-6
    assert all(row["found"] == 1.0 for row in measured.table)
    assert measured.values["needle_accuracy_without"] < 0.05
    assert measured.values["needle_nats_without"] == pytest.approx(np.log(300), rel=0.05)


def test_a_random_model_is_at_chance_with_and_without_the_needle(text):
    values = [found(new_model(resolved_model(), seed).eval(), text, rows=16).values for seed in range(4)]
    mean = {name: np.mean([each[name] for each in values]) for name in values[0]}
    assert mean["needle_accuracy"] < 0.05 and mean["needle_accuracy_without"] < 0.05
    assert mean["needle_nats"] == pytest.approx(mean["needle_nats_without"], rel=0.03)
    assert mean["needle_nats"] == pytest.approx(np.log(300), rel=0.2)


def test_every_cell_has_the_same_documents_keys_and_values(text):
    cells = {(length, depth): rows_of(text, length, depth) for length in (48, 80) for depth in (0.0, 1.0)}
    ends = [[text.tokenizer.decode(row_T[-12:].tolist()) for row_T, _ in rows] for rows in cells.values()]
    assert all(end == ends[0] for end in ends)
    short, long = (text.tokenizer.decode(cells[length, 1.0][0][0][:14].tolist()) for length in (48, 80))
    assert short == long


def test_splits_share_no_key_and_a_draw_is_a_function_of_its_generator(text):
    drawing = Needles(needles.TEMPLATE, text.tokenizer)
    drawn = {split: [drawing.draw(split, np.random.default_rng([n])) for n in range(400)] for split in SPLITS}
    keys = {split: {each.text.split()[4] for each in some} for split, some in drawn.items()}
    assert not (keys["train"] & keys["select"] or keys["train"] & keys["report"] or keys["select"] & keys["report"])
    assert all(len(some) > 350 for some in keys.values())
    again = drawing.draw("report", np.random.default_rng([7]))
    assert again.text == drawn["report"][7].text and all(map(np.array_equal, again[:3], drawn["report"][7][:3]))


@pytest.mark.parametrize("kind", [{"type": "byte"}, {"type": "character"}, {"type": "bpe", "vocab_size": 280}])
def test_the_answer_is_the_same_tokens_in_the_needle_and_after_the_question(kind, tiny, tmp_path):
    text = "\n".join(f"The secret number of {c} is {n}{n + 1}." for n, c in enumerate("abcdefghijklmnopqrstuvwxyz" * 20, 1000))
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n in range(60)))
    tiny["data"] |= {"source": {"type": "text", "files": [str(path)]}, "tokenizer": kind}
    tokenizer = prepare(resolve(tiny).data, 300).tokenizer
    drawing = Needles(needles.TEMPLATE, tokenizer)
    for number in range(20):
        needle = drawing.draw("train", np.random.default_rng(number))
        asked = np.concatenate([needle.question, needle.answer])
        assert np.array_equal(needle.planted[: len(asked)], asked)
        assert tokenizer.decode(needle.planted.tolist()) == f"\n{needle.text}\n"
        assert tokenizer.decode(needle.answer.tolist()) == f" {needle.value}"


def test_a_tokenizer_that_cannot_write_the_needle_is_refused(tiny):
    tiny["data"]["tokenizer"] = {"type": "character"}
    tiny["evaluate"] = {"report": {"it": GRID}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.it\.template: the tokenizer has no tokens for"):
        plan(tiny)
    tiny["evaluate"] = {}
    tiny["data"] |= {"source": {"type": "needle", "haystack": tiny["data"]["source"]}, "context": 90}
    with pytest.raises(SpecError, match=r"data\.source\.template: the tokenizer has no tokens for"):
        plan(tiny)


def rows(batch):
    return batch["text"]


def test_a_row_of_the_task_is_text_a_needle_and_its_question(task):
    dataset = prepare(resolve(task).data, 300)
    depths = []
    for step in range(20):
        batch = rows(dataset.batch("train", step, 3, 4, 56))
        for tokens, targets in zip(batch.tokens_BT, batch.targets_BT, strict=True):
            assert len(tokens) == 56 and tokens[0] == dataset.begin
            whole = dataset.tokenizer.decode(tokens.tolist())
            asked = whole[-14:]  # a line end, six letters, a colon, a space and five digits
            assert asked[0] == "\n" and asked[7:9] == ": " and asked[9:].isdigit()
            before, planted, after = whole[:-14].partition(f"{asked}.\n")
            assert planted and (before + after).replace(" ", "").isalpha()
            depths.append(len(before) / len(before + after))
            assert targets[-7:-1].tolist() == tokens[-6:].tolist() and targets[-1] == -1
            assert (targets[:-7] == -1).all()
            at = [i for i, target in enumerate(targets.tolist()) if target >= 0]
            back = [batch.extra["distance"][len(depths) % 4 - 1, i].item() for i in at]
            assert [tokens[i + 1 - far].item() for i, far in zip(at, back, strict=True)] == targets[at].tolist() and min(back) > 9
    assert min(depths) < 0.1 and max(depths) > 0.9 and 0.35 < np.mean(depths) < 0.65


def test_rows_are_a_function_of_their_numbers(task):
    dataset = prepare(resolve(task).data, 300)
    batch = rows(dataset.batch("train", 5, 2, 4, 56))
    again = rows(dataset.numbered("train", batch.key_B.numpy(), 56))
    assert torch.equal(batch.tokens_BT, again.tokens_BT) and torch.equal(batch.targets_BT, again.targets_BT)
    numbers = dataset.numbers("train", 6, 2, 4, 56)
    read = torch.cat([rows(dataset.batch("train", step, 2, 4, 56)).key_B for step in range(6)])
    assert numbers.tolist() == sorted(read.tolist()) and len(set(numbers.tolist())) == 24
    other = rows(dataset.batch("train", 5, 3, 4, 56))
    assert not set(other.key_B.tolist()) & set(numbers.tolist()) and not torch.equal(other.tokens_BT, batch.tokens_BT)
    parts = [rows(each).tokens_BT for each in dataset.evaluation("report", 7, 56, 3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), torch.cat([rows(each).tokens_BT for each in dataset.evaluation("report", 7, 56, 7)]))


def test_splits_of_the_task_share_no_instance_and_no_document(task):
    dataset = prepare(resolve(task).data, 300)
    held = {split: dataset.tokenizer.decode([t for t in dataset.text.streams[split].tokens.tolist() if t > 2]) for split in SPLITS}
    keys = {}
    for split in SPLITS:
        some = [rows(dataset.batch(split, step, 0, 4, 56)) for step in range(20)]
        some += [rows(each) for each in dataset.evaluation(split, 40, 56, 8)]
        words = [dataset.tokenizer.decode(tokens.tolist()) for batch in some for tokens in batch.tokens_BT]
        keys[split] = {each[-13:-7] for each in words}
        for each in words:
            before, after = each[:-14].split(f"{each[-14:]}.\n")
            assert before + after in held[split] * 2, "text of this split's documents, in their order"
    assert not (keys["train"] & keys["select"] or keys["train"] & keys["report"] or keys["select"] & keys["report"])


def test_with_text_scored_training_scores_every_token(task):
    only = prepare(resolve(task).data, 300)
    task["data"]["source"]["text_scored"] = True
    dataset = prepare(resolve(task).data, 300)
    batch = rows(dataset.batch("train", 0, 0, 4, 56))
    assert torch.equal(batch.targets_BT[:, :-1], batch.tokens_BT[:, 1:]) and (batch.targets_BT[:, -1] == -1).all()
    measured = [rows(next(each.evaluation("report", 4, 56, 4))).targets_BT for each in (dataset, only)]
    assert torch.equal(*measured) and (measured[0] >= 0).sum() == 4 * 6, "what is measured is always the answer"


def test_what_decides_the_rows_decides_identity(task, corpus_file, tmp_path):
    task["model"] |= {"layers": 1, "pattern": ["global"]}
    base = plan(task)
    assert plan({**task, "evaluate": {}}).identity == base.identity

    def changed(**data):
        return plan({**task, "data": {**task["data"], **data}})

    source = task["data"]["source"]
    other = tmp_path / "other.jsonl"
    other.write_text(corpus_file.read_text() + json.dumps({"text": "one more document of the train split or another"}) + "\n")
    plans = [
        base,
        changed(source={**source, "template": "{key} = {value}."}),
        changed(source={**source, "text_scored": True}),
        changed(source={**source, "haystack": {**source["haystack"], "files": [str(other)]}}),
        changed(tokenizer={"type": "bpe", "vocab_size": 280}),
    ]
    assert len({each.identity for each in plans}) == len({each.data["fingerprint"] for each in plans}) == len(plans)


def test_its_texts_are_read_once(task, monkeypatch):
    """What a plan knows of the texts, another process need not read again."""
    planned = plan(task)
    assert list(planned.texts) == [texts.stamp(task["data"]["source"]["haystack"] | {"separator": None})]
    monkeypatch.setattr(texts, "_KNOWN", {})
    texts.remember(planned.texts)
    monkeypatch.setattr(corpus, "_read", lambda source: pytest.fail("the texts are read again"))
    assert prepare(planned.spec.data, 300).fingerprint == planned.data["fingerprint"]


def test_a_haystack_of_ones_own_is_part_of_identity(task, plugins):
    task["data"]["source"]["haystack"] = {"type": "own_texts:Counting"}
    assert "own_texts" in identity_plugins(resolve(task))


def test_the_task_trains_and_is_measured_like_any_other(task, tmp_path):
    task["evaluate"] = {
        "report": {
            "loss": {"type": "objective", "rows": 8},
            "recall": {"type": "recall", "rows": 8},
            "needle": {**GRID, "rows": 2},
            "position": {"type": "by_position", "rows": 2},
        }
    }
    planned = plan(task)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    expected = {"report/loss", "report/needle_accuracy", "report/position_loss_late", "report/recall_accuracy"}
    assert expected <= set(record.metrics)
    assert record.data["text"]["splits"]["train"]["documents"] > 300
    assert train(planned, 0, tmp_path / "again").metrics == record.metrics


def test_the_shipped_task_asks_at_lengths_beyond_training():
    spec = resolve(load("tasks/needle", "experiments"))
    assert spec.data.source["type"] == "needle" and max(spec.evaluate.report["needle"]["lengths"]) == 8 * spec.data.context


@pytest.mark.parametrize(
    "change, text",
    [
        ({"context": 38}, "data.context: 38 tokens cannot hold a needle and its question, which take 30; expected at least 39"),
        ({"tokenizer": None}, "data.tokenizer: missing: the source needle makes its rows from texts"),
        ({"source": {"type": "needle"}}, "data.source.haystack: missing"),
        ({"source": {"type": "needle", "haystack": {"type": "tex"}}}, "data.source.haystack.type: no source 'tex'; did you mean"),
        ({"source": {"type": "needle", "haystack": {"type": "text", "file": []}}}, "data.source.haystack.file: unknown key; did"),
        (
            {"source": {"type": "needle", "haystack": {"type": "own_dataset:Copying"}}},
            "data.source.haystack: own_dataset:Copying has rows of its own; expected a source of texts",
        ),
        ({"source": {"type": "needle", "haystack": {"type": "python_stdlib"}, "template": "no"}}, "data.source.template: expected"),
    ],
)
def test_a_task_that_cannot_be_is_refused_at_its_key(change, text, task, plugins):
    task["data"] |= change
    with pytest.raises((SpecError, DataError)) as error:
        plan(task)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_the_task_has_rows_for_every_seed(task):
    dataset = prepare(resolve(task).data, 300)
    seeds = 0, 2**30 - 1, 2**30, 2**31, 2**40, 2**63 - 1, 2**64 - 1
    rows = [dataset.batch("train", 5, seed, 2, 56)["text"] for seed in seeds]
    assert len({int(number) for each in rows for number in each.key_B}) == 2 * len(seeds)
    for seed, each in zip(seeds, rows, strict=True):
        assert dataset.numbers("train", 6, seed, 2, 56)[-2:].tolist() == each.key_B.tolist()
