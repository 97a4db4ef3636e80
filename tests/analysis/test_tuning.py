"""A search is visible: its edges beside the verdicts, its values first, its runs in the bill and in TensorBoard."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from analysis import crowd, plots, tables
from analysis.__main__ import written
from analysis.bill import bill, readable
from analysis.claims import judge, judgements, tuning_warnings
from analysis.drawing import short
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import write_logs
from experiments.metrics import EXECUTED
from experiments.record import RunRecord
from sweeps.record import StudyRecord

ARMS = {"1:1": 0.0, "3:1": 0.0}
EDGE = "arm '3:1': the best optimizer.lr = 0.01 is at the highest end of 0.0001 to 0.01; the true best may lie above"
COST = {"flops_per_token": {"executed": {"train": 2e6}}}


@pytest.fixture
def tuned_folder(make_study, tuning_trials, plant_run):
    """A study of two arms with two seeds each, and five tuning runs per arm that have records."""
    folder = make_study(
        effects=ARMS,
        seeds=2,
        known_worse=(),
        trials=tuning_trials(list(ARMS)),
        tune_space={"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True, "points": 5}},
        edges=[EDGE],
        helpers={"warm": {"0": "warm-0123/seed-0"}},
    )
    record = StudyRecord.read(folder)
    more = {"model.dim": [8, 16], "data.rows": [2, 4], "optimizer.lr": [None, 0.5]}
    changed = {
        "1:1": {"tuned": {"optimizer.lr": [3.1e-4, 4.2e-4]}},
        "3:1": {"tuned": {"optimizer.lr": [1e-2]}, "changes": record.arms["3:1"].changes | more},
    }
    arms = {label: arm.model_copy(update=changed[label]) for label, arm in record.arms.items()}
    record.model_copy(update={"arms": arms}).write(folder)
    random = np.random.default_rng(1)
    for trial in record.trials[:-1]:
        plant_run(folder / trial.run, trial.arm, trial.seed, trial.value, random)
    plant_run(folder / "warm-0123/seed-0", "warm", 0, 4.0, random)
    for path in folder.rglob("record.json"):
        run = RunRecord.read(path.parent)
        run.model_copy(update={"cost": COST}).write(path.parent)
    return folder


def test_the_edge_of_a_range_is_beside_the_verdicts(tuned_folder, capsys):
    page = write_report(tuned_folder).read_text()
    answer = re.search(r"<section class=answer>.*?</section>", page, re.DOTALL)[0]
    assert "optimizer.lr = 0.01 is at the highest end" in answer and "class=warning" in answer
    written(tuned_folder)
    assert "is at the highest end of 0.0001 to 0.01" in capsys.readouterr().out


def test_values_chosen_in_another_way_are_beside_the_verdicts(tuned_folder):
    record = StudyRecord.read(tuned_folder)
    record.model_copy(update={"edges": [], "choices": ["arm '1:1': runs of tuning seed 1002 failed"]}).write(tuned_folder)
    page = write_report(tuned_folder).read_text()
    answer = re.search(r"<section class=answer>.*?</section>", page, re.DOTALL)[0]
    assert "runs of tuning seed 1002 failed" in answer


def test_tuned_values_come_first_and_are_never_folded_away(tuned_folder):
    study = load(tuned_folder)
    raw = tables.results(study, judge(study))
    shown = tables.readable(raw)["differs in"].tolist()
    assert shown[0] == "optimizer.lr (tuned): [0.00031, 0.00042]"
    assert shown[1].startswith("optimizer.lr (tuned): 0.01; model.pattern") and shown[1].endswith("; 1 more")
    assert "0.5" not in raw.frame.changes[1], "what the arm wrote for a tuned key is not used"
    assert "optimizer.lr (tuned): 0.01" in write_report(tuned_folder).read_text()


def test_more_tuned_keys_than_fit_are_all_shown():
    text = "; ".join([*(f"a.{i} (tuned): {i}" for i in range(4)), "b: 1", "c: 2", "d: 3"])
    assert tables.shortened(text) == text.replace("; d: 3", "; 1 more")


def test_the_search_is_in_the_bill(tuned_folder):
    study = load(tuned_folder)
    frame = bill(study).set_index("arm")
    assert frame.runs.to_dict() == {"1:1": 2, "3:1": 2, "helper runs": 1, "total": 5}
    assert frame.tuning_runs.to_dict() == {"1:1": 5, "3:1": 5, "helper runs": 0, "total": 10}
    each = 400 * 2048 * 2e6
    assert frame.tuning_flops["1:1"] == pytest.approx(5 * each) and frame.training_flops["total"] == pytest.approx(5 * each)
    assert frame.wall_seconds["total"] == 5 * 120 and frame.tuning_wall_seconds["total"] == 10 * 120
    page = write_report(tuned_folder).read_text()
    cost = re.search(r"<section><h2>What it cost</h2>.*?</section>", page, re.DOTALL)[0]
    assert "tuning runs" in cost and "20\N{NO-BREAK SPACE}min" in cost
    assert "and 20\N{NO-BREAK SPACE}min in 10 tuning runs" in page
    results = pd.read_csv(tuned_folder / "results.csv").set_index("arm")
    assert results.tuning_runs.to_dict() == {"1:1": 5, "3:1": 5}
    assert results.tuning_wall_seconds["3:1"] == 600 and results.tuning_flops["3:1"] == pytest.approx(5 * each)
    assert "5 runs (8.19\N{NO-BREAK SPACE}TFLOP, 10\N{NO-BREAK SPACE}min)" in tables.markdown(tables.results(study, judge(study)))


def test_a_shared_run_is_paid_once_and_without_a_search_there_are_no_columns_for_one(make_study):
    folder = make_study(effects={**ARMS, "total": 0.0}, seeds=2, known_worse=(), missing=[("3:1", 0), ("3:1", 1)])
    record = StudyRecord.read(folder)
    twin = record.arms["3:1"].model_copy(update={"runs": record.arms["1:1"].runs})
    record.model_copy(update={"arms": {**record.arms, "3:1": twin}}).write(folder)
    frame = bill(load(folder))
    assert frame.runs.tolist() == [2, 2, 2, 4] and frame.wall_seconds.tolist() == [240, 240, 240, 480]
    assert list(readable(frame)) == ["runs", EXECUTED, "wall time"]
    study = load(folder)
    assert not any("tuning" in name for name in tables.readable(tables.results(study, judge(study))))


def test_each_run_is_compared_with_the_identity_of_its_seed(tuned_folder):
    assert not load(tuned_folder).problems
    record = StudyRecord.read(tuned_folder)
    path = tuned_folder / record.arms["1:1"].runs["1"]
    other = record.arms["1:1"].model_copy(update={"identities": ["identity of 1:1", "of the second seed"]})
    record.model_copy(update={"arms": record.arms | {"1:1": other}}).write(tuned_folder)
    assert [str(path) in problem for problem in load(tuned_folder).problems] == [True]
    run = RunRecord.read(path)
    run.model_copy(update={"identity": "of the second seed"}).write(path)
    assert not load(tuned_folder).problems


def test_every_run_has_a_role_in_hparams(tuned_folder):
    logs = write_logs(tuned_folder)
    rows = []
    for path in {path.parent for path in logs.rglob("events.*")}:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if metadata.SESSION_START_INFO_TAG not in events.Tags()["tensors"]:
            continue
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        start = metadata.parse_session_start_info_plugin_data(content)
        row = {key: value.string_value or value.number_value for key, value in start.hparams.items()}
        rows.append(row | {"scalars": set(events.Tags()["scalars"])})
    roles = [row["role"] for row in rows]
    assert {role: roles.count(role) for role in roles} == {"reported": 4, "tuning": 11, "helper": 1}
    column = "optimizer.lr (tuned)"
    assert {row[column] for row in rows if row["role"] == "tuning"} == {1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0.05}
    seeds = {row["seed"]: row[column] for row in rows if (row["role"], row["arm"]) == ("reported", "1:1")}
    assert seeds == {"0": 3.1e-4, "1": 4.2e-4}, "as text, because TensorBoard shows numbers as 0.0000"
    for row in rows:
        reported = any(tag.startswith("report/") for tag in row["scalars"])
        assert reported == (row["role"] != "tuning"), "what chose values is no result"
    events = EventAccumulator(str(logs / "study"))
    events.Reload()
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    columns = {info.name for info in metadata.parse_experiment_plugin_data(content).hparam_infos}
    assert {"role", column} <= columns


def test_the_figure_marks_what_was_chosen_and_takes_a_bound_for_no_edge(tuned_folder):
    def marked():
        study = load(tuned_folder)
        axes = plots.figures(study, judge(study))["tuning"].axes[0]
        points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
        return {float(line.get_xdata()[0]): line.get_mfc() for line in points}, axes.get_title(loc="left").replace("\n", " ")

    points, title = marked()
    assert set(points) == {3.1e-4, 4.2e-4, 1e-2} and points[1e-2] == "none" and "edge" in title and "3:1" in title
    record = StudyRecord.read(tuned_folder)
    bound = record.arms["3:1"].model_copy(update={"bounds": {"optimizer.lr": [1e-2]}})
    record.model_copy(update={"arms": record.arms | {"3:1": bound}}).write(tuned_folder)
    points, title = marked()
    assert points[1e-2] != "none" and "every best is inside its range" in title


def test_of_very_many_arms_the_named_ones_have_colours_and_a_legend_that_fits(make_study, tuning_trials):
    effects = {f"task=selective_copy mixer={i:02}": i / 100 for i in range(40)}
    folder = make_study(
        effects=effects,
        seeds=1,
        known_worse=(),
        trials=tuning_trials(list(effects)),
        tune_space={"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True, "points": 5}},
        edges=[f"arm {arm!r}: the best optimizer.lr = 0.01 is at the highest end" for arm in effects],
    )
    study = load(folder)
    judged = judgements(study)
    figure = plots.tuning(study, judged[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's own, where the axes have no room left
        figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    named = crowd.named(study, judged[0])
    assert [text.get_text() for text in legend.get_texts()] == list(map(short, named)) and len(named) < len(effects)
    assert legend.get_window_extent().y0 > axes.get_window_extent().y1
    assert len(axes.get_lines()) == len(effects) + sum(len(study.record.arms[arm].tuned.get("optimizer.lr", [0])) for arm in named)
    (said,) = tuning_warnings(study)
    assert said.startswith("Arms 'task=selective_copy mixer=00', ") and "and 28 more: the best" in said
