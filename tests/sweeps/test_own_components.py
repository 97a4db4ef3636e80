"""A user's own objective, evaluator and dataset, one file each, through a study, its table, report and TensorBoard."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis import tables
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import run_names, write_logs
from arch import document
from sweeps import study
from sweeps.run import run_study


def planned(data, runs):
    spec, arms = study.check(document.node(data))
    return study.plan("copying", None, spec, arms, runs)


@pytest.mark.slow
def test_components_of_ones_own_go_all_the_way(plugins, tiny, tmp_path, console):
    data = tiny | {
        "question": "Does a global layer copy better?",
        "data": {"source": {"type": "own_dataset:Copying"}, "context": 16, "rows": 4},
        "objective": {"type": "own_objective:WithAccuracy"},
        "evaluate": {
            "every": 4,
            "select": {"loss": {"type": "objective", "rows": 4}},
            "report": {"loss": {"type": "objective", "rows": 8}, "norms": {"type": "own_evaluator:Norms"}},
        },
        "arms": {"global": {}, "local": {"model.pattern": ["local"]}},
        "seeds": 2,
        "long_context": 64,
        "claims": {"copies": {"type": "equivalent", "metric": "report/accuracy", "margin": 0.05}},
        "tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2, "points": 2}}, "metric": "select/accuracy"},
    }
    result = run_study(planned(data, tmp_path / "runs"), 1, console)
    assert result.complete, [outcome.message for outcome in result.outcomes]
    folder = result.study.folder

    found = load(folder)
    assert not found.problems
    for measured in found.metrics.values():
        assert {"report/accuracy", "report/loss", "report/embedding_norm"} <= set(measured)
        assert not any("perplexity" in name for name in measured)
    assert {trial.state for trial in result.trials} == {"finished"} and all(0 <= trial.value <= 1 for trial in result.trials)
    best = {arm: max(trial.value for trial in result.trials if trial.arm == arm) for arm in data["arms"]}
    for arm in result.study.arms:
        tuned = {key: value for key, (value,) in arm.tuned.items()}
        chosen = [trial.value for trial in result.trials if trial.arm == arm.arm.label and trial.values == tuned]
        assert best[arm.arm.label] in chosen, "a higher accuracy is the better one"
    assert "accuracy" in tables.text(tables.results(found, judge(found)))
    page = write_report(folder).read_text()
    assert "accuracy" in page and "erplexity" not in page
    logs = write_logs(folder)
    events = EventAccumulator(str(logs / run_names(found.record.arms)["local"] / "seed-0"), size_guidance={"scalars": 0})
    events.Reload()
    assert any("accuracy" in tag for tag in events.Tags()["scalars"])

    data["evaluate"]["report"]["loss"]["rows"] = 6
    before = {job.folder: (job.folder / "history.parquet").stat().st_mtime_ns for job in result.study.jobs()}
    again = run_study(planned(data, tmp_path / "runs"), 1, console)
    assert (
        again.complete and {job.folder: (job.folder / "history.parquet").stat().st_mtime_ns for job in again.study.jobs()} == before
    )
    assert load(again.study.folder).metrics != found.metrics, "the study shows what it asks for now"
