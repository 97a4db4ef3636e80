"""Speed and memory of a run: what is measured, of which steps, and that nothing of it decides a result."""

import mmap
import statistics

import pyarrow.parquet
import pytest
import torch

from experiments import memory, watch
from experiments.metrics import OF_RUNS, known
from experiments.plan import plan
from experiments.record import RunRecord
from experiments.train import train

CPU = torch.device("cpu")
MB = 1 << 20


def column(folder, name):
    return pyarrow.parquet.read_table(folder / "history.parquet")[name].to_pylist()


def test_speed_is_a_steps_tokens_over_the_median_of_its_seconds(tiny, tmp_path):
    record = train(plan(tiny), 0, tmp_path / "run", runs_at_once=2)
    seconds = [each for each in column(tmp_path / "run", "step_seconds") if each == each]
    assert len(seconds) == 12 - watch.WARM_UP, "the first steps of a process do not count"
    assert record.measured["speed/tokens_per_second"] == pytest.approx(4 * 32 / statistics.median(seconds))
    assert RunRecord.read(tmp_path / "run").measured == record.measured and record.timing["runs_at_once"] == 2
    assert record.measured.keys() == OF_RUNS.keys()


def test_evaluation_and_checkpoints_are_no_part_of_a_steps_time(tiny, tmp_path, monkeypatch):
    """Each would make its step the slowest by far."""
    import time

    slow = 0.4  # far above a step, also on a machine that does much else
    original = watch.explained
    monkeypatch.setattr(watch, "explained", lambda *words: time.sleep(slow) or original(*words))
    tiny["evaluate"]["every"] = 1
    tiny["train"]["checkpoint_every"] = 1
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.timing["evaluate_seconds"] > 12 * slow
    seconds = [each for each in column(tmp_path / "run", "step_seconds") if each == each]
    assert statistics.median(seconds) < slow


def test_a_resumed_run_warms_up_again_and_keeps_its_earlier_steps(tiny, tmp_path):
    stops = iter([False] * 5 + [True])
    assert train(plan(tiny), 0, tmp_path / "run", stop=lambda: next(stops)).status == "interrupted"
    record = train(plan(tiny), 0, tmp_path / "run")
    seconds = [each for each in column(tmp_path / "run", "step_seconds") if each == each]
    assert len(seconds) == 12 - 2 * watch.WARM_UP and record.measured["memory/peak_bytes"] > 0


def test_what_was_not_measured_is_left_out(tiny, tmp_path):
    tiny["train"]["steps"] = 0
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "finished" and not record.measured and "runs_at_once" not in record.timing


def test_speed_and_memory_are_no_part_of_the_metrics_that_a_seed_repeats(tiny, tmp_path):
    first, second = (train(plan(tiny), 0, tmp_path / name) for name in ("first", "second"))
    assert first.metrics == second.metrics and first.identity == second.identity
    assert not first.metrics.keys() & OF_RUNS.keys()


def filled(megabytes):
    """Memory with pages of its own, given back when it is closed; an allocator would reuse what it kept of earlier memory."""
    pages = mmap.mmap(-1, megabytes * MB)
    for _ in range(megabytes):
        pages.write(b"1" * MB)
    return pages


def test_a_later_run_of_a_process_does_not_report_the_peak_of_an_earlier_one(tiny, tmp_path):
    """A long-lived worker: its process once held 300 MB more than the run needs."""
    from experiments import device

    large = filled(300)
    before = memory.peak_bytes(CPU)
    large.close()
    device.release_memory()
    record = train(plan(tiny), 0, tmp_path / "run")
    peak = record.measured["memory/peak_bytes"]
    assert record.timing["memory_before_bytes"] <= peak < before - 200 * MB


def test_the_peak_holds_what_was_held_in_between():
    peak = memory.Peak(CPU)
    filled(64).close()
    assert peak.bytes() > peak.before + 60 * MB


def test_where_the_system_keeps_an_earlier_peak_the_memory_held_is_sampled(monkeypatch):
    def refuse(device):
        raise OSError(13, "Permission denied")

    filled(256).close()
    monkeypatch.setattr(memory, "forget_peak", refuse)
    peak = memory.Peak(CPU)
    held = filled(32)
    peak.note()
    assert peak.bytes() >= peak.before + 30 * MB
    monkeypatch.setattr(memory, "held_bytes", lambda device: 0)
    assert memory.Peak(CPU).bytes() is None, "unknown, and not the earlier peak"
    assert held[0] == ord("1")


def test_metrics_of_runs_and_costs_say_what_they_are():
    assert known("speed/tokens_per_second").better == "higher" and known("memory/peak_bytes").unit == "B"
    assert known("cost/cache_bytes@131072").unit == "B" and known("cost/train_flops").compare == "ratio"
    for wrong in ("cost/cache_bytes", "cost/cache_bytes@", "cost/cache_bytes@0", "cost/cache_bytes@-1", "cost/cache_bytes@1e3"):
        assert known(wrong) is None
    assert known("cost/loss") is None, "a cost is none of the objective's metrics"
