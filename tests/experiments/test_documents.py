"""What is measured of each document: it adds up to the metrics, and what was measured otherwise is measured again."""

import json
import math

import numpy as np
import pytest
import torch

from arch import registry
from arch.errors import SpecError
from arch.model import Model, new_model
from experiments import evaluations
from experiments.data.dataset import prepare
from experiments.plan import plan, resolve
from experiments.record import EVALUATIONS, RunRecord, documents_of
from experiments.train import train


def loss_of(planned, split="report"):
    """The evaluation `loss` of a plan."""
    return next(each for each in planned.evaluations if each.key == f"{split}.loss")


@pytest.fixture
def prepared(tiny):
    """(model, objective, dataset) of the tiny experiment, untrained."""
    spec = resolve(tiny)
    dataset = prepare(spec.data, spec.model.vocab_size)
    return new_model(spec.model, 0).eval(), registry.build("objective", spec.objective, dataset), dataset


@torch.no_grad()
def test_the_means_of_positions_add_up_to_those_of_all(prepared):
    model, objective, dataset = prepared
    for batch in dataset.evaluation("report", 6, 32, 3):
        summed, each = objective.forward(model, batch), objective.by_position(model, batch)
        assert each.keys() == summed.keys()
        for name, mean in each.items():
            assert mean.sum.shape == mean.weight.shape == batch["text"].tokens_BT.shape
            assert float(mean.weight.sum()) == float(summed[name].weight)
            assert float(mean.sum.sum()) == pytest.approx(float(summed[name].sum), rel=1e-5)


def test_documents_add_up_to_the_metrics_of_the_run(tiny, tmp_path):
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    file = loss_of(planned).file
    documents = documents_of(tmp_path / "run", file)
    assert len(set(documents.names)) == len(documents.names) > 3
    total = {name: math.fsum(sums) / math.fsum(documents.weights[name]) for name, sums in documents.sums.items()}
    assert record.metrics["report/loss"] == pytest.approx(total["loss"], rel=1e-12)
    assert record.metrics["report/bits_per_byte"] == pytest.approx(total["nats_per_byte"] / math.log(2), rel=1e-12)
    assert documents.without.keys() == {"loss", "perplexity", "bits_per_byte", "accuracy"}
    for i in range(len(documents.names)):
        rest = [math.fsum(np.delete(both["nats_per_byte"], i)) for both in (documents.sums, documents.weights)]
        assert documents.without["bits_per_byte"][i] == pytest.approx(rest[0] / rest[1] / math.log(2), rel=1e-9)
    stored = json.loads((tmp_path / "run" / EVALUATIONS / file).read_text())
    assert "documents" not in stored, "what every reader of a study opens stays small"
    assert documents_of(tmp_path / "run", loss_of(planned, "select").file) is None


def test_equal_texts_are_one_document(prepared, monkeypatch):
    model, objective, dataset = prepared
    evaluate = registry.build("evaluator", {"type": "objective", "rows": 50})
    from arch.contracts import Given

    given = Given(objective, objective, "report", 32, 4, "cpu", 0)
    with torch.no_grad():
        before = evaluate(model, dataset, given)
        names = dataset.documents("report")
        monkeypatch.setattr(type(dataset), "documents", lambda self, split: [names[0], names[0], *names[2:]])
        after = evaluate(model, dataset, given)
    assert len(after.documents.names) == len(before.documents.names) - 1 and after.values == before.values
    both = [before.documents.sums["loss"][before.documents.names.index(name)] for name in names[:2]]
    assert after.documents.sums["loss"][after.documents.names.index(names[0])] == pytest.approx(sum(both), rel=1e-12)


def test_an_objective_without_losses_of_positions_has_no_documents(plugins, tiny, tmp_path):
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    planned = plan(tiny)
    assert train(planned, 0, tmp_path / "run").status == "finished"
    assert documents_of(tmp_path / "run", loss_of(planned).file) is None


def test_a_loss_that_is_not_finite_still_fails_by_its_name(tiny, tmp_path, monkeypatch):
    tiny["train"]["steps"] = 0
    tiny["evaluate"] = {"select": {}, "report": {"loss": {"type": "objective", "rows": 4}}}
    forward = Model.trunk
    monkeypatch.setattr(Model, "trunk", lambda self, *args, **options: (forward(self, *args, **options)[0] * math.nan, None))
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and "report/loss" in record.failure.message


def test_a_run_that_was_measured_by_another_rule_is_measured_again(tiny, tmp_path, monkeypatch):
    """Its identity, its weights and what was measured on the select split stay."""
    monkeypatch.setattr(evaluations, "RULE", {"select": 1, "report": 1})
    before = plan(tiny)
    train(before, 0, tmp_path / "run")
    for each in before.evaluations:  # as an earlier version measured it
        if each.split == "report":
            path = tmp_path / "run" / EVALUATIONS / each.file
            stored = json.loads(path.read_text())
            path.write_text(json.dumps(stored | {"values": dict.fromkeys(stored["values"], 99.0)}))
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    files = {each.key: each.file for each in before.evaluations}
    monkeypatch.setattr(evaluations, "RULE", {"select": 1, "report": 2})
    now = plan(tiny)
    assert now.identity == before.identity
    assert {each.key for each in now.evaluations if each.file != files[each.key]} == {"report.loss", "report.sample"}
    missing = {each.split for each in evaluations.missing(now.evaluations, tmp_path / "run")}
    assert missing == {"report"}, "so a study does this run's measurements again"
    record = train(now, 0, tmp_path / "run")
    assert record.status == "finished" and record.metrics["report/loss"] < 10
    assert RunRecord.read(tmp_path / "run").steps == 12 and (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_arms_of_other_contexts_are_measured_on_the_same_rows(tiny, tmp_path):
    measured = {}
    for context in (16, 48):
        tiny["data"]["context"] = context
        for wanted in (None, 24):
            tiny["evaluate"] = {"report": {"loss": {"type": "objective", "rows": 20} | ({"context": wanted} if wanted else {})}}
            planned = plan(tiny)
            folder = tmp_path / f"{context}-{wanted}"
            assert train(planned, 0, folder).status == "finished"
            documents = documents_of(folder, loss_of(planned).file)
            measured[context, wanted] = documents.names, documents.weights["loss"]
    assert measured[16, 24] == measured[48, 24]
    assert measured[16, None] != measured[48, None]


def test_a_context_that_the_split_cannot_give_is_refused_at_its_line(tiny, tmp_path):
    tiny["evaluate"] = {"report": {"loss": {"type": "objective", "context": 10**6}}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.loss\.context: context 1,000,000 is longer than the report split's"):
        plan(tiny)
    tiny["evaluate"]["report"]["loss"]["context"] = None
    tiny["evaluate"]["select"] = {"loss": {"type": "objective", "rows": 4}}
    assert "context" not in plan(tiny).spec.evaluate.report["loss"], "so files of runs that were measured before keep their names"
