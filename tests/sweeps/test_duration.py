"""The estimate of a study's time and disk: from one timed step, kept in the cache, and never from a model that is too large."""

import json
from types import SimpleNamespace

import pytest

from arch import document
from experiments import device, evaluations
from experiments.distillation import estimate
from sweeps import duration, paces, show, study


@pytest.fixture
def estimated(study_data, tmp_path, monkeypatch):
    """estimated(**changes) gives the preview and the Estimate of a study. Its cache is empty at first."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sweeps.duration.cores", lambda: 2)

    def made(**changes):
        spec, arms = study.check(document.node(study_data | changes))
        data = show.preview("asked", None, spec, arms)
        return data, duration.estimate(data, arms)

    return made


@pytest.fixture
def timed(monkeypatch):
    """The specs whose step was timed; each takes half a second."""
    specs = []
    monkeypatch.setattr(duration, "_step_seconds", lambda spec: specs.append(spec) or 0.5)
    return specs


def test_the_time_is_that_of_a_real_step_times_the_steps(estimated, study_data):
    data, estimate = estimated()
    steps = study_data["train"]["steps"]
    assert 0 < estimate.seconds["1:1"] / steps < 1, "a step of a tiny model takes milliseconds, its evaluations little more"
    assert estimate.workers == 2 and estimate.words.startswith("about ") and "a step of '1:1' was timed" in estimate.words
    assert json.dumps(data), "the estimate is no part of the preview"


def test_other_arms_take_as_long_as_their_flops_say(estimated, timed, study_data):
    data, estimate = estimated(evaluate={"every": 10**6, "report_rows": 1})
    steps = study_data["train"]["steps"]
    assert len(timed) == 1 and estimate.seconds["1:1"] == pytest.approx(0.5 * steps, rel=0.01)
    flops = {label: arm["training_flops"] for label, arm in data["arms"].items()}
    assert estimate.seconds["all local"] == pytest.approx(0.5 * steps * flops["all local"] / flops["1:1"], rel=0.01)
    assert estimate.total == pytest.approx(sum(estimate.seconds.values()) * 2 / 2), "two seeds, two workers"
    measured = estimated()[1]
    assert measured.seconds["1:1"] > estimate.seconds["1:1"], "evaluations take time too"
    assert estimated(seeds=6)[1].total == pytest.approx(3 * measured.total) and len(timed) == 1, "a step is timed once"


def test_the_step_of_a_task_is_timed_on_its_rows(monkeypatch):
    """Four of 64 positions are scored, so a step on random tokens would compute a head sixteen times as large."""
    timed = []

    class Noted:
        def __init__(self, *_, objective):
            assert objective is None, "that of a language model"

        def training_on(self, batch):
            timed.append(batch)
            return lambda: None

    monkeypatch.setattr("experiments.bench.sides.Ours", Noted)
    monkeypatch.setattr(duration, "_timed", lambda *_: [1.0])
    _, arms = study.check(document.load("tasks/mqar", "sweeps"), "smoke")
    assert duration._step_seconds(arms[0].spec) == 1.0
    rows = timed[0]["text"]
    assert rows.tokens_BT.shape == (4, 64) and (rows.targets_BT >= 0).sum(1).tolist() == [4] * 4


def test_the_step_of_an_encoder_is_timed_on_pairs_of_texts_and_without_a_head(monkeypatch, tmp_path):
    """A head over the vocabulary would take most of such a step."""
    timed = []

    class Noted:
        def __init__(self, *_, objective):
            timed.append(type(objective).__name__)

        def training_on_pairs(self, *sizes):
            timed.append(sizes)
            return lambda: None

    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("experiments.bench.sides.Ours", Noted)
    monkeypatch.setattr(duration, "_timed", lambda *_: [1.0])
    _, arms = study.check(document.load("embeddinggemma/pooling", "sweeps"), "smoke")
    shown = {"parameters": 1, "flops_per_token": {"executed": 10.0}}
    assert duration._rate(arms[0], shown) == (2 * 32 * 32 * 10.0, ""), "two texts of 32 tokens in each of 32 rows, in a second"
    assert timed == ["Contrastive", (32, 32, 1)]
    assert [file.name.partition("-")[0] for file in (tmp_path / "cache" / paces.FOLDER).iterdir()] == ["pairs"]


def test_the_record_of_an_encoder_counts_one_of_two_texts_that_a_step_read(monkeypatch):
    record = SimpleNamespace(measured={"speed/tokens_per_second": 100.0})
    monkeypatch.setattr(estimate.RunRecord, "read_whole", lambda _: record)
    teacher = lambda pool: SimpleNamespace(folder="there", model=SimpleNamespace(pool=pool))  # noqa: E731
    per_token = {pool: estimate.seconds(teacher(pool), 8, None, 1.0) for pool in (None, "mean")}
    assert per_token == {None: pytest.approx(1 / 300), "mean": pytest.approx(1 / 600)}


def test_evaluations_of_an_encoder_read_two_texts_per_row():
    spec = study.check(document.load("embeddinggemma/pooling", "sweeps"), "smoke")[1][0].spec
    shown = {"flops_per_token": {"executed": 10.0}}
    rows = [each for each in evaluations.planned(spec) if each.evaluator.get("rows")]
    often = {"select": spec.train.steps // spec.evaluate.every, "report": 1}
    counted = sum(often[each.split] * each.evaluator["rows"] for each in rows)
    assert duration._measuring(spec, shown) == pytest.approx(counted * 2 * duration.FORWARD * 10.0 * spec.data.context)


def test_disk_counts_the_weights_of_every_run(estimated, timed):
    data, estimate = estimated()
    weights = sum(4 * arm["parameters"] for arm in data["arms"].values())
    assert estimate.disk == pytest.approx(2 * (weights + 2 * duration.BESIDE))
    assert estimated(seeds=4)[1].disk == pytest.approx(2 * estimate.disk)


def test_nothing_is_built_that_is_too_large_or_has_no_device(estimated, timed, study_data, monkeypatch):
    train = study_data["train"]
    _, estimate = estimated(train=train | {"accelerator": "gpu"})
    if not duration.torch.cuda.is_available():
        assert estimate.total is None and "this machine does not have" in estimate.words and not timed
    monkeypatch.setattr(device, "free_bytes", lambda: 1000)
    assert "does not fit in memory" in estimated()[1].words and not timed
    monkeypatch.setattr(duration, "LARGEST_STEP", 10)
    assert "takes too long to be timed" in estimated()[1].words and not timed


def test_damaged_kept_numbers_are_measured_again(estimated, timed, tmp_path):
    first = estimated()[1]
    (file,) = (tmp_path / "cache").rglob("random-*.json")
    file.write_text("{")
    assert estimated()[1] == first and len(timed) == 2


def test_runs_that_an_arm_needs_are_counted(estimated, timed, study_data):
    study_data["arms"]["warm"] = {"init_from": {"run": "before"}}
    data, estimate = estimated(runs={"before": {"train.steps": 3}})
    assert data["helpers"].keys() == {"before"} <= estimate.seconds.keys()
    assert estimate.total == pytest.approx(
        (sum(estimate.seconds[label] for label in data["arms"]) + estimate.seconds["before"]) * 2 / 2
    )
