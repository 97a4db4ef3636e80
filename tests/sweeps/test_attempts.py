"""Attempts at a run: each writes in its own folder, the complete one becomes the run, and nobody else's writes reach it."""

import gzip
import os

import pytest
import sweeps_fakes as fakes
import torch
from safetensors.torch import save_file

from experiments import checkpoint
from experiments.record import RunRecord, packed_file
from experiments.spec import ExperimentSpec
from experiments.train import train
from sweeps import attempts, worker
from sweeps.job import Job, record_failure

RUN = ("i" * 64, 3)


def record(status="finished", **more):
    return RunRecord(status=status, identity=RUN[0], seed=RUN[1], spec={}, **more)


def write_attempt(home, number, step=None, status="running", **more):
    """The folder of an attempt with a record and, where a step is given, a checkpoint of that step."""
    place = attempts.folder(home, number)
    place.mkdir(parents=True)
    record(status, **more).write(place)
    if step is not None:
        parts = dict.fromkeys(checkpoint.PARTS) | {"global_step": step, "weight": torch.arange(1000.0)}
        torch.save(parts, place / checkpoint.NAME)
        (place / attempts.MARKER).write_text(f"{RUN[0]} {RUN[1]}")
    if status == "finished":
        save_file({"w": torch.ones(4)}, place / "model.safetensors")
    return place


def packed(home):
    """The record of a run as a kept copy has it."""
    packed_file(home / "record.json").write_bytes(gzip.compress((home / "record.json").read_bytes()))
    (home / "record.json").unlink()


def begin(home, number):
    place = attempts.folder(home, number)
    place.mkdir(parents=True)
    return place, attempts.begin(place, home, *RUN, checkpoint.newest, checkpoint.is_whole)


def test_an_attempt_goes_on_from_the_newest_checkpoint_of_any_earlier_one(tmp_path):
    write_attempt(tmp_path, 1, step=20)
    write_attempt(tmp_path, 4, step=10)
    (attempts.folder(tmp_path, 4) / "events.out.tfevents.1").write_text("curves")
    place, taken = begin(tmp_path, 7)
    assert taken == "the checkpoint of attempt-1 at step 20" and checkpoint.newest(place)[0] == 20
    assert not (place / "record.json").exists()


def test_a_checkpoint_that_was_cut_short_or_is_of_another_run_is_not_taken(tmp_path):
    cut = write_attempt(tmp_path, 1, step=30) / checkpoint.NAME
    os.truncate(cut, cut.stat().st_size // 2)
    (write_attempt(tmp_path, 2, step=40) / attempts.MARKER).write_text("another run 3")
    write_attempt(tmp_path, 3, step=5)
    damaged = write_attempt(tmp_path, 4, step=50) / checkpoint.NAME
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF  # inside of the weights: only their checksum can tell
    damaged.write_bytes(content)
    assert begin(tmp_path, 9)[1] == "the checkpoint of attempt-3 at step 5"


def test_a_result_that_its_driver_could_not_tell_is_not_computed_again(tmp_path):
    torn = write_attempt(tmp_path, 5, status="finished") / "model.safetensors"
    os.truncate(torn, torn.stat().st_size - 1)
    write_attempt(tmp_path, 2, status="finished", metrics={"report/loss": 1.5})
    place, taken = begin(tmp_path, 6)
    assert taken == "the result of attempt-2" and RunRecord.read(place).metrics == {"report/loss": 1.5}


def test_the_packed_record_of_a_kept_copy_is_a_result_like_another(tmp_path):
    home = write_attempt(tmp_path / "elsewhere", 1, status="pruned", metrics={"report/loss": 1.5})
    packed(home)
    place, taken = begin(home, 2)
    assert taken == f"the result of {home.name}" and RunRecord.read(place).metrics == {"report/loss": 1.5}
    assert {path.name for path in place.iterdir()} == {"record.json"}
    attempts.promote(place, home)
    assert RunRecord.read(home).status == "pruned" and not (home / "record.json.gz").exists()
    packed(home)
    attempts.record_failed(write_attempt(tmp_path, 4, status="failed"), home)
    with pytest.raises(FileExistsError, match=r"record\.json\.gz"):
        record("failed").write_first(home)
    assert RunRecord.read(home).status == "pruned"
    record("finished").write(home)
    assert RunRecord.read(home).status == "finished" and not (home / "record.json.gz").exists()


def test_what_an_old_attempt_writes_later_does_not_reach_the_new_one(tmp_path):
    old = write_attempt(tmp_path, 1, step=20)
    (old / "events.out.tfevents.1").write_text("a")
    new, _ = begin(tmp_path, 2)
    torch.save({"global_step": 99}, old / "scratch")
    os.replace(old / "scratch", old / checkpoint.NAME)  # as the product writes one
    with (old / "events.out.tfevents.1").open("a") as file:
        file.write("b")
    assert checkpoint.newest(new)[0] == 20 and (new / "events.out.tfevents.1").read_text() == "a"


def test_promoting_is_the_same_however_often_and_after_a_kill_at_any_moment(tmp_path):
    def files(home):
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    def made(home):
        place = write_attempt(home, 3, status="finished", metrics={"report/loss": 1.0})
        (place / "evaluations").mkdir()
        (place / "evaluations" / "a.json").write_text("{}")
        write_attempt(home, 1, step=5)
        (home / checkpoint.NAME).write_text("of a start without a storage")
        return place

    attempts.promote(made(tmp_path / "whole"), tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert set(expected) == {"record.json", "model.safetensors", "evaluations/a.json"}
    number = 0
    while True:
        home = tmp_path / f"killed {number}"
        place, left = made(home), number
        with pytest.MonkeyPatch.context() as patch:
            real = os.replace

            def replace(*names, real=real):
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                real(*names)

            patch.setattr(os, "replace", replace)
            try:
                attempts.promote(place, home)
                break
            except KeyboardInterrupt:
                pass
        assert not (home / "record.json").exists()  # the record is the last to move, so nobody takes this for a run
        assert attempts.has_result(place, *RUN)
        attempts.promote(place, home)
        attempts.promote(place, home)
        assert files(home) == expected
        number += 1
    assert number == 3


def test_a_failure_is_shown_only_where_there_is_no_result(tmp_path):
    failed = write_attempt(tmp_path, 1, status="failed")
    attempts.record_failed(failed, tmp_path)
    assert RunRecord.read(tmp_path).status == "failed" and RunRecord.read(failed).status == "failed"
    attempts.promote(write_attempt(tmp_path, 2, status="finished"), tmp_path)
    attempts.record_failed(write_attempt(tmp_path, 4, status="failed"), tmp_path)
    assert RunRecord.read(tmp_path).status == "finished"


def test_giving_a_run_up_never_replaces_a_result_that_comes_at_that_moment(tmp_path, tiny, monkeypatch):
    spec = ExperimentSpec.parse(tiny)
    job = Job("a", 0, fakes.planned(spec), tmp_path / "seed-0")
    job.folder.mkdir()
    real = RunRecord.write_first

    def late(self, folder):
        fakes.finish(job)  # another driver promotes, after this one saw that there is no record
        return real(self, folder)

    monkeypatch.setattr(RunRecord, "write_first", late)
    assert record_failure(job, "WorkerLost", "twice", replaces=False) is None
    assert RunRecord.read(job.folder).status == "finished"


def test_a_run_that_moved_from_attempt_to_attempt_is_bit_for_bit_the_undisturbed_one(tiny, tmp_path):
    from experiments.orders import ABANDON, STOP
    from experiments.plan import plan

    made = plan(tiny)
    train(made, 1, tmp_path / "alone")
    home, words = tmp_path / "home" / "seed-1", {2: (STOP, 5), 3: (ABANDON, 3), 4: (None, 0)}
    for number, (word, at) in words.items():
        place = attempts.folder(home, number)
        place.mkdir(parents=True)
        steps = []
        job = Job("a", 1, made, place, home=home)
        done = worker.trainer(1)(job.dump(), lambda state, steps=steps: steps.append(1), _after(word, at))
        assert done["status"] == ("interrupted" if word else "finished")
    assert not list(attempts.folder(home, 3).glob("model.*"))
    attempts.promote(attempts.folder(home, 4), home)
    same = ["model.safetensors", "spec.yaml", "tokenizer.json"]
    assert [(home / name).read_bytes() for name in same] == [(tmp_path / "alone" / name).read_bytes() for name in same]
    ours, alone = RunRecord.read(home), RunRecord.read(tmp_path / "alone")
    assert (ours.metrics, ours.steps) == (alone.metrics, alone.steps)
    assert sorted(path.name for path in home.iterdir() if path.name.startswith((".", "attempt", "checkpoint"))) == []


def _after(word, steps):
    """A `stop` that gives a word at the call with this number."""
    calls = []

    def stop():
        calls.append(1)
        return word if word and len(calls) >= steps else None

    return stop
