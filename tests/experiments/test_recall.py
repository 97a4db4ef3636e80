"""The evaluators `recall` and `floor`, and what a task is to planning, training and reading a run."""

import math

import numpy as np
import pytest
import torch

from arch import registry
from arch.contracts import Given
from arch.errors import SpecError
from experiments.data.dataset import prepare
from experiments.plan import plan, resolve
from experiments.spec import DataSpec
from experiments.train import train

MQAR = {"source": {"type": "mqar", "vocabulary": 32, "pairs": [2, 4], "noise": True}, "context": 24, "rows": 8}


@pytest.fixture
def task(tiny):
    """The tiny experiment on a small MQAR task, with the evaluators that it has by default."""
    tiny["data"], tiny["model"]["vocab_size"] = {**MQAR}, 32
    del tiny["evaluate"]
    return tiny


class Oracle:
    """Answers as told: the logits are hot at `answers(rows)`, through an embedding that is the identity."""

    def __init__(self, vocabulary, answers):
        self.head_weight, self.answers = torch.eye(vocabulary), answers
        self.spec = type("Spec", (), {"logit_softcap": None})

    def trunk(self, tokens_BT, layout, images=None):
        return self.answers(tokens_BT), None


def measured(evaluator, dataset, answers, context=24):
    given = Given(None, None, "report", context, 8, "cpu", 0)
    return registry.build("evaluator", evaluator)(Oracle(dataset.vocabulary, answers), dataset, given)


def dataset_of(data):
    return registry.build("source", data["source"]).dataset(DataSpec(**data))


def looked_up(tokens_BT):
    """The value behind the last earlier place of each token, found by brute force; the logits of a perfect model."""
    logits = torch.zeros(*tokens_BT.shape, 32)
    for b, row in enumerate(tokens_BT.tolist()):
        for t, token in enumerate(row):
            earlier = [s for s in range(0, min(t, 8), 2) if row[s] == token]
            if earlier:
                logits[b, t, row[earlier[0] + 1]] = 1
    return logits


def test_a_model_that_looks_up_recalls_all_and_a_constant_one_nothing():
    dataset = dataset_of(MQAR)
    perfect = measured({"type": "recall", "rows": 40}, dataset, looked_up)
    assert perfect.values == {"recall_accuracy": 1.0, "recall_exact": 1.0}
    nothing = measured({"type": "recall", "rows": 40}, dataset, lambda tokens_BT: torch.zeros(*tokens_BT.shape, 32))
    assert nothing.values == {"recall_accuracy": 0.0, "recall_exact": 0.0}


def test_accuracy_is_counted_by_distance_and_by_pairs():
    """A model that looks no further back than 7 tokens is right below 8 and wrong from there on, whatever the rows are."""
    dataset = dataset_of(MQAR)

    def near(tokens_BT):
        logits = looked_up(tokens_BT)
        for b, row in enumerate(tokens_BT.tolist()):
            for t, token in enumerate(row):
                if token in row[: min(t, 8) : 2] and t - row.index(token) >= 8:
                    logits[b, t] = 0
        return logits

    found = measured({"type": "recall", "rows": 200}, dataset, near)
    by_distance = {row["distance"]: row for row in found.table if row["distance"] is not None}
    by_pairs = {row["pairs"]: row for row in found.table if row["pairs"] is not None}
    assert all(distance & (distance - 1) == 0 for distance in by_distance) and set(by_pairs) == {2, 4}
    assert all(row["accuracy"] == (distance < 8) for distance, row in by_distance.items()) and {4, 8} <= set(by_distance)
    for rows in (by_distance, by_pairs):
        targets = sum(row["targets"] for row in rows.values())
        assert sum(row["accuracy"] * row["targets"] for row in rows.values()) / targets == pytest.approx(
            found.values["recall_accuracy"]
        )
    rows = next(batch["text"] for batch in dataset.evaluation("report", 200, 24, 200))
    assert sum(row["targets"] for row in by_pairs.values()) == int((rows.targets_BT >= 0).sum())
    exact = ((rows.extra["distance"] < 8) | (rows.targets_BT < 0)).all(1).float().mean()
    assert found.values["recall_exact"] == pytest.approx(float(exact))


def test_by_row_a_row_of_few_questions_counts_as_much_as_one_of_many():
    """A model that knows only the first pair answers one question of each row: 1/2 and 1/4 of the rows' questions."""
    dataset = dataset_of(MQAR)

    def first(tokens_BT):
        logits = looked_up(tokens_BT)
        logits[tokens_BT != tokens_BT[:, :1]] = 0
        return logits

    found = measured({"type": "recall", "rows": 200, "by_row": True}, dataset, first).values
    pairs = next(batch["text"] for batch in dataset.evaluation("report", 200, 24, 200)).extra["pairs"].amax(1)
    assert found["recall_by_row"] == pytest.approx(float((1 / pairs).mean()))
    assert found["recall_accuracy"] == pytest.approx(200 / float(pairs.sum())) != found["recall_by_row"]
    assert "recall_by_row" not in measured({"type": "recall", "rows": 8}, dataset, first).values


def test_several_contexts_are_measured_side_by_side():
    dataset = dataset_of(MQAR)
    found = measured({"type": "recall", "rows": 20, "context": [24, 64]}, dataset, looked_up)
    assert found.values == {f"recall_{kind}@{n}": 1.0 for n in (24, 64) for kind in ("accuracy", "exact")}
    assert {row["rows of"] for row in found.table} == {"24 tokens", "64 tokens"}
    built = registry.build("evaluator", {"type": "recall", "context": [24, 64]})
    assert set(built.metrics) == set(found.values)


def test_its_charts_draw_columns_that_the_table_has():
    dataset = dataset_of(MQAR)
    grammar = dataset_of({"source": {"type": "known_entropy"}, "context": 24, "rows": 8})
    uniform = lambda tokens_BT: torch.zeros(*tokens_BT.shape, grammar.vocabulary)  # noqa: E731
    for kind, data, answers in (("recall", dataset, looked_up), ("floor", grammar, uniform)):
        evaluator = registry.build("evaluator", {"type": kind})
        table = measured({"type": kind, "rows": 8}, data, answers).table
        for chart in evaluator.charts:
            drawn = [row for row in table if row[chart.x] is not None and row[chart.y] is not None]
            assert drawn and all(isinstance(row[chart.x] + row[chart.y], int | float) and chart.by in row for row in drawn)


def test_the_floor_is_the_truth_of_the_same_rows_and_a_model_of_it_has_no_excess():
    data = {"source": {"type": "known_entropy", "depth": 2}, "context": 24, "rows": 8}
    dataset = dataset_of(data)
    grammar = dataset.task

    def truth(tokens_BT):
        p = torch.from_numpy(grammar.p_SV).float().clamp(min=1e-30).log()
        rows = []
        for row in tokens_BT.tolist():
            open_ones, states = [], []
            for token in row:
                if grammar.words <= token < grammar.words + grammar.brackets:
                    open_ones.append(token - grammar.words)
                elif grammar.words + grammar.brackets <= token < dataset.vocabulary - 1:
                    open_ones.pop()
                states.append(2 * (open_ones[-1] + 1 if open_ones else 0) + (len(open_ones) == 2))
            rows.append(p[states])
        return torch.stack(rows)

    found = measured({"type": "floor", "rows": 30}, dataset, truth)
    nats = torch.cat([batch["text"].extra["nats"] for batch in dataset.evaluation("report", 30, 24, 7)])
    assert found.values["floor"] == pytest.approx(float(nats.double().mean()), rel=1e-6)
    assert found.values["excess"] == pytest.approx(0, abs=1e-5) and found.values["excess_share"] == pytest.approx(0, abs=1e-5)
    uniform = measured({"type": "floor", "rows": 30}, dataset, lambda tokens_BT: torch.zeros(*tokens_BT.shape, dataset.vocabulary))
    assert uniform.values["excess"] == pytest.approx(math.log(dataset.vocabulary) - uniform.values["floor"], rel=1e-5)
    lines = {of: [row for row in uniform.table if row["of"] == of] for of in ("model", "floor")}
    assert [row["position"] for row in lines["floor"]] == [row["position"] for row in lines["model"]] == [1, 2, 4, 8, 16]
    assert all(row["nats"] == pytest.approx(math.log(dataset.vocabulary), rel=1e-5) for row in lines["model"])


def test_a_task_is_planned_trained_and_recorded_like_text(task, tmp_path):
    planned = plan(task)
    assert planned.data["source"] == "mqar" and planned.data["vocabulary"] == 32
    kinds = {each.key: each.evaluator["type"] for each in planned.evaluations}
    assert kinds == {"select.loss": "objective", "report.loss": "objective", "report.recall": "recall"}
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert {"report/loss", "report/accuracy", "select/accuracy", "report/recall_accuracy"} <= set(record.metrics)
    assert record.metrics["report/accuracy"] == record.metrics["report/recall_accuracy"], "the same rows, in two ways"
    assert not any("byte" in name for name in record.metrics) and not record.sample
    assert "train/accuracy" not in record.metrics and record.metric_info["report/accuracy"].better == "higher"
    recall = next(each for each in planned.evaluations if each.name == "recall").record(tmp_path / "run")
    assert recall.charts and recall.table


def test_training_is_the_same_whether_or_not_accuracy_is_measured(task, tmp_path):
    """It is computed where there is no gradient; a step asks for nothing more than its loss."""
    objective = registry.build("objective", {"type": "next_token"}, prepare(resolve(task).data, 32))
    dataset = prepare(resolve(task).data, 32)
    batch = dataset.batch("train", 0, 0, 8, 24)
    oracle = Oracle(32, lambda tokens_BT: looked_up(tokens_BT).requires_grad_())
    assert set(objective(oracle, batch)) == {"loss"}
    with torch.no_grad():
        means = objective(oracle, batch)
    assert float(means["accuracy"].sum) == means["accuracy"].weight == batch.weight
    assert float(means["loss"].sum) == float(objective(oracle, batch)["loss"].sum.detach()), "the same bits"
    positions = objective.by_position(oracle, batch)["accuracy"]
    assert torch.equal(positions.sum.sum(), means["accuracy"].sum) and torch.equal(positions.weight, batch["text"].targets_BT >= 0)


def test_every_option_of_a_task_is_part_of_a_run_s_identity(task):
    before = plan(task).identity
    task["data"]["source"] = {**task["data"]["source"], "power": 0.5}
    assert plan(task).identity != before


@pytest.mark.parametrize(
    "kind, needed, source, context",
    [
        ("recall", "recalls", {"type": "known_entropy"}, 24),
        ("floor", "exact", MQAR["source"], 24),
        ("sample", "text", MQAR["source"], 24),
    ],
)
def test_an_evaluator_on_data_without_what_it_needs_is_refused_at_its_line(kind, needed, source, context, task):
    task["data"] = {"source": source, "context": context, "rows": 8}
    task["evaluate"] = {"report": {"mine": {"type": kind}}}
    with pytest.raises(SpecError, match=rf"evaluate\.report\.mine: {kind} needs `{needed}`: "):
        plan(task)


def test_a_context_that_no_row_can_have_is_refused_at_its_key(task):
    task["data"] = {"source": {"type": "modular_arithmetic", "modulus": 11}, "context": 4, "rows": 8}
    task["evaluate"] = {"report": {"loss": {"type": "objective", "context": 8}}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.loss\.context: expected 4, the tokens of an expression of 2 terms"):
        plan(task)
    task["data"] = {"source": {"type": "known_entropy"}, "context": 8, "rows": 8}
    task["evaluate"] = {"report": {"floor": {"type": "floor", "context": 1}}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.floor\.context"):
        plan(task)


def test_the_defaults_of_data_with_a_known_distribution_have_its_floor(task):
    task["data"], task["model"]["vocab_size"] = {"source": {"type": "known_entropy"}, "context": 24, "rows": 8}, 19
    report = resolve(task).evaluate.report
    assert {name: each["type"] for name, each in report.items()} == {"loss": "objective", "floor": "floor"}
    assert np.isfinite(prepare(resolve(task).data, 19).batch("train", 0, 0, 2, 24)["text"].extra["nats"].numpy()).all()
