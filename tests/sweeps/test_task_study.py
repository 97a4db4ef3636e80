"""The shipped specs of tasks, and a study of one: planned, tuned, trained, judged and shown like a study of text."""

import pytest
import torch

from analysis import tables
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from arch import document, registry
from arch.model import Model
from experiments.data.dataset import prepare
from experiments.plan import resolve
from sweeps import study
from sweeps.run import run_study

COMPUTED = [name for name in document.shipped("experiments") if name.startswith("tasks/") and name != "tasks/needle"]
STUDY = "tasks/mqar"


@pytest.mark.parametrize("name", COMPUTED)
def test_a_shipped_spec_has_the_rows_that_its_model_can_read(name):
    spec = resolve(document.load(name, "experiments"))
    dataset = prepare(spec.data, spec.model.vocab_size)
    assert dataset.vocabulary == spec.model.vocab_size
    rows = dataset.batch("train", 0, 0, spec.data.rows, spec.data.context)["text"]
    assert rows.tokens_BT.shape == (spec.data.rows, spec.data.context) and (rows.targets_BT >= 0).any()


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_the_arms_of_the_study_have_the_same_size_and_rows_that_exist(scale):
    _, arms = study.check(document.load(STUDY, "sweeps"), scale)
    sizes = []
    for each in (arm.spec for arm in arms):
        assert prepare(each.data, each.model.vocab_size).vocabulary == each.model.vocab_size
        with torch.device("meta"):
            sizes.append(sum(weight.numel() for weight in Model(each.model).parameters()))
    assert max(sizes) / min(sizes) < (1.03 if scale == "smoke" else 1.01)


@pytest.mark.slow
def test_a_study_of_a_task_goes_all_the_way(tmp_path, console):
    root = document.load(STUDY, "sweeps")
    overrides = {"tune.space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2, "points": 2}}, "tune.metric": "select/accuracy"}
    root = document.overridden(root, document.node(overrides))
    spec, arms = study.check(root, "smoke")
    result = run_study(study.plan("task", "smoke", spec, arms, tmp_path / "runs"), 1, console)
    assert result.complete, [outcome.message for outcome in result.outcomes]
    found = load(result.study.folder)
    assert not found.problems
    for measured in found.metrics.values():
        assert {"report/accuracy", "report/loss", "report/recall_accuracy", "select/accuracy"} <= set(measured)
        assert measured["report/recall_accuracy"] == measured["report/accuracy"]
    assert {trial.state for trial in result.trials} == {"finished"} and all(0 <= trial.value <= 1 for trial in result.trials)
    assert "accuracy" in tables.text(tables.results(found, judge(found)))
    page = write_report(result.study.folder).read_text()
    assert "Accuracy by distance" in page and "per byte" not in page
    assert "which the task computes" in page and "texts like these" not in page


@pytest.mark.parametrize("scale", ["smoke", "laptop", pytest.param("gpu", marks=pytest.mark.slow)])  # `paper`: more steps
@pytest.mark.parametrize("name", ["griffin/copy_recall", "mechanisms/mqar", "mechanisms/mqar_window", "mechanisms/mad"])
def test_every_arm_of_the_studies_of_recall_has_rows_that_its_model_can_read(name, scale):
    """Planning checks every claim, every comparison and every option; the tasks' rows are drawn once."""
    _, arms = study.check(document.load(name, "sweeps"), scale)
    drawn = {}
    for spec in (arm.spec for arm in arms):
        if spec.data.tokenizer is None:
            dataset = drawn.get(str(spec.data)) or prepare(spec.data, spec.model.vocab_size)
            drawn[str(spec.data)] = dataset
            assert dataset.vocabulary == spec.model.vocab_size
            for evaluator in spec.evaluate.report.values():
                registry.build("evaluator", evaluator).check(dataset, "report")
    assert drawn


def share_within(rows, window):
    """The mean over rows of the share of questions whose fact lies at most `window` tokens back; kinds are as frequent."""
    asked, near = rows.targets_BT >= 0, rows.extra["distance"] <= window
    share_B, pairs_B = (asked & near).sum(1) / asked.sum(1), rows.extra["pairs"].amax(1)
    return float(torch.stack([share_B[pairs_B == pairs].mean() for pairs in pairs_B.unique()]).mean())


@pytest.mark.parametrize(("scale", "context", "number", "away"), [("laptop", 64, 4000, 0.01), ("gpu", 1024, 240, 0.03)])
def test_what_the_windows_are_claimed_to_recall_is_what_lies_within_them(scale, context, number, away):
    spec, arms = study.check(document.load("mechanisms/mqar_window", "sweeps"), scale)
    by_label = {arm.label: arm.spec for arm in arms}
    stated = {claim["arm"]: claim for claim in spec.claims.values() if claim["type"] == "value"}
    assert len(stated) == len(arms) and set(stated) == set(by_label), "a claim for every arm"
    dataset = prepare(arms[0].spec.data, arms[0].spec.model.vocab_size)
    rows = next(batch["text"] for batch in dataset.evaluation("report", number, context, number))
    for label, claim in stated.items():
        windows = [
            block["mixer"]["window"] for name, block in by_label[label].dump()["model"]["blocks"].items() if name == "window"
        ]
        within = 1.0 if label == "global" else share_within(rows, windows[0])
        assert claim["value"] == pytest.approx(within, abs=away)
