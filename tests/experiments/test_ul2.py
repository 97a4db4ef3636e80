"""UL2 and prefix language modelling: what is cut is whole, and cut alike however rows are divided."""

import numpy as np
import pytest
import torch

from arch import document, registry
from arch.errors import SpecError
from arch.model import new_model
from experiments import plan as planning
from experiments.data import corruption
from experiments.data.batch import Batch
from experiments.data.corruption import Denoiser
from experiments.data.packing import Stream
from experiments.means import Means, prepared
from experiments.objectives.ul2 import UL2, sentinels
from experiments.record import RunRecord
from experiments.train import train

V = 50


class Data:
    """A dataset that only says what objectives ask."""

    vocabulary, begin, byte_lengths = V, 1, np.ones(V, dtype=np.int64)


def batch(rows=4, context=40):
    tokens = np.random.default_rng(0).integers(3, V, 400)
    return Stream(tokens.astype(np.uint16), np.array([0, 7, 8, 60, 90, 91, 230, 400])).batch(range(rows), context)


def objective(kind, **options):
    return registry.build(
        "objective", registry.resolve_component("objective", document.node({"type": kind, **options}), ()), Data()
    )


def tiny(**changes):
    root = document.load("tiny_t5gemma2", "experiments")
    small = {"model.vocab_size": 340, "data.tokenizer.vocab_size": 320, "data.context": 48, "train.steps": 4, "evaluate.every": 2,
             "evaluate.select.loss.rows": 8, "evaluate.report.loss.rows": 8, "model.dim": 16, "model.layers": 2,
             "model.blocks.local.mixer.head_dim": 8, "model.blocks.local.ffn.hidden": 16, "model.encoder.layers": 2,
             "model.encoder.blocks.local.mixer.head_dim": 8, "model.encoder.blocks.local.ffn.hidden": 16}  # fmt: skip
    return document.overridden(root, document.node({**small, **changes}))


@pytest.mark.parametrize("denoiser", [Denoiser(span=3, rate=0.15), Denoiser(span=12, rate=0.5), Denoiser(span=32, rate=0.5)])
@pytest.mark.parametrize("tokens", [2, 3, 10, 77])
def test_spans_and_what_stays_are_the_document(denoiser, tokens):
    document_N = np.arange(1000, 1000 + tokens)
    for seed in range(20):
        out, spans = denoiser.taken(tokens), denoiser.spans(tokens)
        source, target = corruption.without_spans(document_N, out, spans, 5, np.random.default_rng(seed))
        assert (target >= 1000).sum() == out
        assert (source >= 1000).sum() == tokens - out
        pieces = np.split(target, np.flatnonzero(target < 1000))[1:]
        assert [piece[0] for piece in pieces] == list(range(5, 5 + spans + 1))
        assert len(pieces[-1]) == 1
        filled = [pieces[token - 5][1:] if token < 1000 else [token] for token in source]
        assert np.concatenate(filled).tolist() == document_N.tolist()


@pytest.mark.parametrize("tokens", [64, 512, 4096])
def test_rates_and_spans_are_those_of_the_mixture(tokens):
    for span, rate in ((3, 0.15), (12, 0.5), (32, 0.15), (32, 0.5)):
        denoiser = Denoiser(span=span, rate=rate)
        assert abs(denoiser.taken(tokens) / tokens - rate) < 0.01
        assert tokens < 256 or abs(denoiser.taken(tokens) / denoiser.spans(tokens) / span - 1) < 0.3
    assert Denoiser(rate=0.75).taken(tokens) == 0.75 * tokens
    assert sentinels(UL2.Config(), tokens) == 1 + Denoiser(span=3, rate=0.15).spans(tokens)


def test_the_suffix_is_half_of_what_is_drawn():
    drawn = objective("ul2")
    data, suffixes, total = batch(10, 40), 0, 0
    for step in range(60):
        data.drawn = (0, step)
        made = drawn.prepare(Vocabulary(), data)
        target = made["target"]
        firsts = target.targets_BT[target.layout.reset_BT & target.layout.seen_BT]
        suffixes, total = suffixes + int((firsts < V).sum()), total + len(firsts)
    assert abs(suffixes / total - 0.5) < 0.06


class Vocabulary:
    """As much of a model as `prepare` asks for."""

    class spec:  # noqa: N801
        vocab_size = V + 20


@pytest.mark.parametrize("kind", ["ul2", "prefix_lm"])
def test_every_token_is_on_one_side(kind):
    data = batch()
    made = objective(kind).prepare(Vocabulary(), data)
    source, target = made["source"], made["target"]
    text = lambda x: x[(x >= 0) & (x < V)]  # noqa: E731
    wanted = text(target.targets_BT)
    kept = text(source.tokens_BT[source.layout.seen_BT])
    assert sorted([*wanted.tolist(), *kept.tolist()]) == sorted(data["text"].tokens_BT.flatten().tolist())
    assert made.weight == int((target.targets_BT >= 0).sum())


def test_the_decoder_reads_what_came_before():
    target = objective("prefix_lm").prepare(Vocabulary(), batch())["target"]
    for row in range(len(target)):
        for doc in target.layout.doc_BT[row].unique():
            if doc >= 0:
                here = target.layout.doc_BT[row] == doc
                read, wanted = target.tokens_BT[row][here], target.targets_BT[row][here]
                assert read.tolist() == [1, *wanted[:-1].tolist()]


def test_what_is_drawn_depends_on_seed_step_and_row_alone():
    drawn, data = objective("ul2"), batch()

    def made(part, at=(3, 5)):
        part.drawn = at
        return drawn.prepare(Vocabulary(), part)

    def rows(made):
        return [side.tokens_BT[row][side.layout.seen_BT[row]].tolist() for side in made.values() for row in range(len(side))]

    whole, halves = made(data), [made(part) for part in data.split(2)]
    assert rows(whole)[:4] == rows(halves[0])[:2] + rows(halves[1])[:2]
    assert rows(whole) == rows(made(batch()))
    assert rows(whole) != rows(made(batch(), (3, 6)))
    assert rows(whole) != rows(made(batch(), (4, 5)))


@pytest.mark.parametrize("kind", ["ul2", "prefix_lm"])
def test_micro_batches_change_nothing(kind):
    spec = planning.resolve(tiny()).model
    model, training = new_model(spec, 0).double(), objective(kind)
    data = batch()
    data["text"].tokens_BT = data["text"].tokens_BT.clamp(max=V - 1)

    def gradients(parts):
        model.zero_grad()
        whole, total = prepared(training, model, data), 0.0
        for part in whole.split(parts):
            loss = training(model, part)["loss"].sum
            loss.backward()
            total += float(loss.detach())
        return total, [weight.grad.clone() for weight in model.parameters()]

    (one, a), (two, b) = gradients(1), gradients(2)
    assert one == pytest.approx(two, rel=1e-6)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_prefix_lm_is_next_token_behind_the_prefix():
    """With the encoder's part of attention shut, the decoder is a language model of the suffix alone."""
    training, data = objective("prefix_lm"), batch()
    model = new_model(planning.resolve(tiny()).model, 0)
    made = prepared(training, model, data)
    with torch.no_grad():
        found = Means(training)
        found.include(training(model, made))
    values = found.values()
    assert values["bits_per_byte"] == pytest.approx(values["loss"] / np.log(2))  # each token is one byte here
    assert 0 <= values["accuracy"] <= 1


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(SpecError, match=r"model.vocab_size: 321 has no room for sentinels.*expected at least 32[2-9]"):
        planning.plan(tiny(**{"model.vocab_size": 321}))


@pytest.mark.parametrize("changes, words", [
    ({"objective": {"type": "next_token"}}, "next_token needs `causal`: .*the model has an encoder"),
    ({"train.compile": "on"}, "train.compile: on is for models of one stack"),
    ({"train.strategy": "fsdp2"}, "train.strategy: fsdp2 is for models of one stack"),
    ({"evaluate.report.sample": {"type": "sample"}}, "sample needs .*the model has an encoder"),
    ({"objective": {"type": "ul2", "denoisers": []}}, "denoisers: expected at least one"),
    ({"objective": {"type": "prefix_lm", "prefix": 1.0}}, "prefix: "),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(SpecError, match=words):
        planning.resolved(tiny(**changes))


def test_a_model_of_one_stack_is_refused():
    root = document.overridden(document.load("tiny_gemma3", "experiments"), document.node({"objective": {"type": "ul2"}}))
    with pytest.raises(SpecError, match=r"ul2 needs `encoder_decoder`: .*no `encoder`"):
        planning.resolved(root)


@pytest.mark.parametrize("kind", ["ul2", "prefix_lm"])
def test_a_run_trains_and_resumes_bit_for_bit(kind, tmp_path):
    planned = planning.plan(tiny(objective={"type": kind}, **{"train.checkpoint_every": 2}))
    whole = train(planned, 0, tmp_path / "whole")
    assert whole.status == "finished", whole.failure
    assert {"report/loss", "report/bits_per_byte", "report/accuracy"} <= set(whole.metrics)
    steps = []
    stopped = train(planned, 0, tmp_path / "parts", stop=lambda: steps.append(1) or ("stop" if len(steps) == 2 else None))
    assert stopped.status == "interrupted"
    resumed = train(planned, 0, tmp_path / "parts")
    assert resumed.metrics == whole.metrics
    assert RunRecord.read_whole(tmp_path / "parts").status == "finished"


def test_batches_of_text_are_left_as_they_are():
    data = batch()
    before = data["text"].tokens_BT.clone()
    objective("ul2").prepare(Vocabulary(), data)
    assert torch.equal(data["text"].tokens_BT, before)
    assert isinstance(data, Batch)
