"""The source `planted`: each document stands in the training text so often and nowhere else, and `memorization` measures it."""

import hashlib
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arch import registry
from arch.contracts import Given
from arch.document import node, overridden
from arch.errors import DataError, SpecError
from arch.model import new_model
from experiments.data import corpus, texts
from experiments.data.dataset import prepare
from experiments.data.split import split_of
from experiments.plan import plan, resolve

GROUPS = (0, 1, 3, 12)


@pytest.fixture
def into(tmp_path):
    """A source of documents of some lines each, a few of them twice."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(200)]
    documents = ["\n".join(" ".join(draw.choices(words, k=8)) for _ in range(draw.randint(4, 20))) for _ in range(300)]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*documents, *documents[:5]]))
    return {"type": "text", "files": [str(path)]}


@pytest.fixture
def data(tiny, into):
    """The data section of a tiny experiment with planted documents."""
    source = {"type": "planted", "into": into, "repetitions": list(GROUPS[1:]), "documents": 4, "characters": 60}
    tiny["data"] = {**tiny["data"], "source": source, "tokenizer": {"type": "bpe", "vocab_size": 300}, "context": 32}
    return tiny


def built(data):
    return registry.build("source", resolve(data).data.source)


def split_of_text(text):
    return split_of(hashlib.sha256(text.encode()).digest())


def test_each_document_is_planted_so_often_and_nowhere_else(data, into):
    source = built(data)
    written = [text for _, text in source.documents()]
    planted = source.planted()
    assert [*planted] == list(GROUPS) and {len(group) for group in planted.values()} == {4}
    everything = "\n".join(written)
    for repetitions, group in planted.items():
        for text in group:
            assert len(text) == 60 and split_of_text(text) == "train"
            assert written.count(text) == everything.count(text) == repetitions
    assert len({text for group in planted.values() for text in group}) == 16
    before = [text for _, text in registry.build("source", {**into, "separator": None, "field": "text"}).documents()]
    copies = {text for group in planted.values() for text in group}
    left = [text for text in written if text not in copies]
    assert left == [text for text in before if text in left], "the others stand in their order"
    assert len(before) - len(left) == 16, "a document is taken out for each excerpt"
    assert list(source.documents()) == list(built(data).documents()) and built(data).planted() == planted


def test_copies_are_spread_over_the_text(data):
    source = built(data)
    written = [text for _, text in source.documents()]
    often = {*source.planted()[12]}
    places = np.array([i for i, text in enumerate(written) if text in often]) / len(written)
    assert len(places) == 48 and abs(places.mean() - 0.5) < 0.15 and 0.2 < places.std() < 0.38


def test_select_and_report_are_those_of_the_other_documents(data, into):
    prepared = prepare(resolve(data).data, 300)
    plain = prepare(resolve(overridden(node(data), node({"data.source": into}))).data, 300)
    planted = {hashlib.sha256(text.encode()).hexdigest()[:16] for group in built(data).planted().values() for text in group}
    for split in ("select", "report"):
        assert {*prepared.documents(split)} <= {*plain.documents(split)} and not planted & {*prepared.documents(split)}
    counts = {name: prepared.documents("train").count(name) for name in planted}
    assert sorted(counts.values()) == sorted(repetitions for repetitions in GROUPS for _ in range(4))


def test_the_corpus_knows_their_tokens_as_they_stand_in_the_training_text(data):
    prepared = prepare(resolve(data).data, 300)
    stream = np.asarray(prepared.streams["train"].tokens).tolist()
    text = f" {' '.join(map(str, stream))} "
    for repetitions, group in prepared.planted().items():
        for tokens in group:
            assert tokens[0] == prepared.ends.bos
            assert text.count(f" {' '.join(map(str, tokens))} ") == repetitions
    assert prepare(resolve(overridden(node(data), node({"data.source": data["data"]["source"]["into"]}))).data, 300).planted() == {}


def test_a_tokenizer_does_not_learn_from_copies(data):
    few, many = (
        prepare(resolve(overridden(node(data), node({"data.source.repetitions": [1, 3, last]}))).data, 300) for last in (4, 90)
    )
    assert few.tokenizer.to_str() == many.tokenizer.to_str() and few.fingerprint != many.fingerprint
    assert few.sizes["train"]["tokens"] < many.sizes["train"]["tokens"]


def test_most_limits_the_training_text_alone(data):
    source = resolve(data).data.source
    every, some = (corpus._read({**source, "most": most})[0] for most in (None, 6000))
    size = lambda documents, split: sum(len(each.text) for each in documents if split_of(each.digest) == split)  # noqa: E731
    planted = sum(60 * 4 * repetitions for repetitions in GROUPS)
    assert size(some, "train") <= 6000 + planted < size(every, "train") and size(some, "train") > 5000 + planted
    for split in ("select", "report"):
        assert size(some, split) == size(every, split)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"documents": 400}, "data.source.documents: text has"),
        ({"characters": 4000}, "of at least 16000, with text that stands nowhere else); expected 16, 4 for each of 4 groups"),
    ],
)
def test_a_source_with_too_few_documents_is_refused(data, change, said):
    changed = overridden(node(data), node({f"data.source.{key}": value for key, value in change.items()}))
    with pytest.raises((DataError, SpecError), match="expected") as caught:
        plan(changed)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.source.repetitions": [4, 1]}, "ascending, got [4, 1]"),
        ({"data.source.repetitions": [0, 1]}, "repetitions"),
        ({"data.source.into": {"type": "mqar"}}, "mqar has rows of its own; expected a source of texts"),
        ({"data.source.into": {"type": "text", "file": []}}, "unknown key"),
        ({"data.source.into": None}, "into"),
    ],
)
def test_what_cannot_be_planted_is_refused_at_its_line(data, change, said):
    with pytest.raises(SpecError) as caught:
        resolve(overridden(node(data), node(change)))
    assert said in str(caught.value) and str(caught.value).startswith("data.source.")


def test_a_run_says_what_was_planted_and_texts_are_read_once(data, monkeypatch):
    planned = plan(node(data))
    assert any(
        "planted: excerpts of 60 characters, 4 each 1, 3 and 12 times; 4 more are never trained" in note for note in planned.notes
    )
    prepared = prepare(planned.spec.data, 300)
    prepared.planted()
    monkeypatch.setattr(texts.registry, "build", None)
    monkeypatch.setattr(texts, "stamp", lambda source: next(iter(texts._PLANTED)))
    assert [*texts.planted(planned.spec.data.source)] == list(GROUPS)


def evaluator(**options):
    return registry.build("evaluator", {"type": "memorization", "prefix": 6, "continuation": 8, "rows": 4, **options})


def test_a_model_that_learned_one_group_by_heart_is_found_to_have_learned_this_group(data):
    data["model"] |= {"layers": 1, "pattern": ["global"], "vocab_size": 300}
    prepared = prepare(resolve(data).data, 300)
    model, measure = new_model(resolve(data).model, 0), evaluator(repetitions=[0, 1, 12])
    about = Given(None, None, "report", 32, 4, "cpu", 0)
    kinds = ("memorized_exact", "memorized_approximate", "edits_per_token")
    assert set(measure.metrics) == {f"{kind}@{n}" for kind in kinds for n in (0, 1, 12)}
    untrained = measure(model.eval(), prepared, about).values
    assert {value for name, value in untrained.items() if name.startswith("memorized")} == {0.0}
    assert min(value for name, value in untrained.items() if name.startswith("edits")) > 0.5
    known = torch.from_numpy(np.stack([each[:15] for each in prepared.planted()[12]]))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(150):
        loss = F.cross_entropy(model(known[:, :-1]).flatten(0, 1), known[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    measured = measure(model.eval(), prepared, about)
    assert measured.values["memorized_exact@12"] == 1.0 and measured.values["memorized_exact@0"] < 0.3
    assert measured.values["edits_per_token@12"] == 0.0 and measured.values["edits_per_token@0"] > 0.3
    points = {(row["repetitions"], row["kind"]): row["rate"] for row in measured.table if "rate" in row}
    assert points[12, "exact"] == 1.0 and points[12, "exact, never trained"] == measured.values["memorized_exact@0"]
    assert {repetitions for repetitions, _ in points} == {1, 12}, "an axis of logarithms has no 0"
    assert [chart.kind for chart in measure.charts] == ["curve", "histogram"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repetitions": [2]}, "repetitions: no document is planted 2 times: it plants 0, 1, 3 and 12 times"),
        ({"repetitions": [1], "prefix": 500}, "prefix: no document that is planted 1 times has 509 tokens; the longest has"),
    ],
)
def test_documents_that_are_not_planted_are_refused_before_a_run(data, options, said):
    with pytest.raises(SpecError) as caught:
        evaluator(**options).check(prepare(resolve(data).data, 300), "report")
    assert str(caught.value).startswith(said)


def test_a_source_that_plants_nothing_is_told(tiny):
    prepared = prepare(resolve(tiny).data, 300)
    with pytest.raises(SpecError, match="it plants nothing"):
        evaluator(repetitions=[1]).check(prepared, "report")
    evaluator().check(prepared, "report")
