"""Read the event files back: every arm and seed has an HParams row with its final metrics, and the bands exist."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from analysis.runs import load
from analysis.tensorboard import run_names, write_logs


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
        assert start.hparams["arm"].string_value == row["arm"] and start.hparams["seed"].number_value == row["seed"]
        assert end.status == ends[row["status"]]
        if row["status"] == "finished":
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
