"""Read the event files back: every arm and seed has an HParams row with its final metrics, and the bands exist."""

import re
import urllib.parse

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from analysis import tensorboard
from analysis.runs import load
from analysis.tensorboard import FIRST, address, refresh, run_names, write_logs
from experiments.record import HISTORY_NAME, RunRecord


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def hparams(events, tag):
    return events.SummaryMetadata(tag).plugin_data.content


@pytest.fixture(scope="module")
def logged(plant, tmp_path_factory):
    effects = {"1:1": 0.0, "3:1": 0.0, "local-only": 0.06}
    folder = plant(tmp_path_factory.mktemp("logged"), effects, seeds=2, failed=[("3:1", 0)], missing=[("local-only", 1)])
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "stale").touch()
    logs = write_logs(folder)
    assert not (logs / "stale").exists()
    return load(folder), logs


def test_every_arm_and_seed_has_its_row_and_final_metric(logged):
    study, logs = logged
    experiment = metadata.parse_experiment_plugin_data(hparams(read(logs / "study"), metadata.EXPERIMENT_TAG))
    columns = {info.name: info for info in experiment.hparam_infos}
    assert {"role", "arm", "seed", "model.pattern"} == set(columns)
    assert {value.string_value for value in columns["arm"].domain_discrete.values} == set(study.record.arms)
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics[0].startswith("report/") and "report/loss" in metrics
    ends = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE, "missing": api_pb2.STATUS_UNKNOWN}
    for row in study.runs.to_dict("records"):
        events = read(logs / run_names(study.record.arms)[row["arm"]] / f"seed-{row['seed']}")
        start = metadata.parse_session_start_info_plugin_data(hparams(events, metadata.SESSION_START_INFO_TAG))
        end = metadata.parse_session_end_info_plugin_data(hparams(events, metadata.SESSION_END_INFO_TAG))
        assert start.hparams["arm"].string_value == row["arm"] and start.hparams["seed"].string_value == str(row["seed"])
        assert end.status == ends[row["status"]]
        if row["status"] == "finished":
            assert {"final/speed/tokens_per_second", "final/memory/peak_bytes"} & set(metrics) <= set(events.Tags()["scalars"])
            (sample,) = events.Tensors("sample/text_summary")
            assert sample.tensor_proto.string_val[0] == b"    def f(x):\n        return <x>" and sample.step == row["steps"]
            for metric in metrics:
                name = metric.removeprefix("final/")
                assert events.Scalars(metric)[-1].value == pytest.approx(row[name], rel=1e-6)
    groups = len(study.runs)
    assert len(list(logs.glob("*/seed-*"))) == groups


def test_margin_charts_have_their_tags(logged):
    study, logs = logged
    events = read(logs / "study")
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    series = [chart.margin.series[0] for category in layout.category for chart in category.chart]
    assert len(series) == 2
    for arm, name in run_names(study.record.arms).items():
        tags = read(logs / name / "over-seeds").Tags()["scalars"]
        wanted = series if arm != study.baseline else series[:1]
        assert all({one.value, one.lower, one.upper} <= set(tags) for one in wanted)
    assert any(tag.startswith("report/") for tag in events.Tags()["images"])


def test_curves_are_whole(logged):
    study, logs = logged
    events = read(logs / "1to1" / "seed-0")
    own = study.curves[(study.curves.arm == "1:1") & (study.curves.seed == 0)]
    assert [point.step for point in events.Scalars("train/loss")] == list(own.step)
    assert len(events.Scalars("select/loss")) == own["select/loss"].notna().sum()


def test_run_names_are_safe_and_used_once():
    names = run_names(["1:1", "1to1", "a/b", "a b", "study", "..", "A-b"])
    assert len({name.lower() for name in names.values()}) == 7
    assert not any("/" in name or ":" in name or name.startswith(".") for name in names.values())
    assert "study" not in names.values()


def test_the_link_shows_results_and_training_first():
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(address(6007)).query)
    assert {key: value for key, (value,) in asked.items()} == FIRST and ":6007/" in address(6007)
    shown = [tag for tag in ("report/loss", "train/loss", "select/loss", "final/report/x") if re.search(FIRST["tagFilter"], tag)]
    assert shown == ["report/loss", "train/loss"]
    colour = FIRST["runColorGroup"].removeprefix("regex:")
    assert {re.match(colour, run)[1] for run in ("1to1/seed-0", "1to1/over-seeds")} == {"1to1"}


@pytest.mark.slow
def test_a_running_board_gets_what_changed_and_forgets_what_was_wrong(plant, tmp_path, monkeypatch):
    folder = plant(tmp_path / "watched", {"1:1": 0.0, "3:1": 0.01}, seeds=2, missing=[("3:1", 1)])
    logs, written = write_logs(folder), {}
    board = read(logs / "1to1" / "seed-0")
    first = board.Scalars("train/loss")
    refresh(load(folder), logs, written)
    files = {path: path.stat().st_mtime_ns for path in logs.rglob("events*")}
    path = folder / load(folder).record.arms["1:1"].runs["0"]
    curve = pd.read_parquet(path / HISTORY_NAME)
    curve["train/loss"] += 1
    curve[: len(curve) // 2].to_parquet(path / HISTORY_NAME)
    refresh(load(folder), logs, written)
    new = {one.parent.relative_to(logs).as_posix() for one in {*logs.rglob("events*")} - {*files}}
    assert new == {"1to1/seed-0", "1to1/over-seeds", "study", "3to1/over-seeds"}, "a run that did not change keeps its file"
    board.Reload()
    again = board.Scalars("train/loss")
    assert [point.step for point in again] == list(curve.step[: len(curve) // 2])
    assert [point.value for point in again] == pytest.approx([point.value + 1 for point in first[: len(again)]], rel=1e-6)
    monkeypatch.setattr(tensorboard, "READ", -1)
    for _ in range(3):
        curve["train/loss"] += 1
        curve.to_parquet(path / HISTORY_NAME)
        refresh(load(folder), logs, written)
    assert len(list((logs / "1to1" / "seed-0").glob("events*"))) == 1, "old files do not pile up"
    assert RunRecord.read(path).status == "finished"
