"""The pool survives the death of workers, locks each run's folder, and stops in a way that runs can resume."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import sweeps_fakes as fakes
from filelock import FileLock

from arch import registry
from arch.errors import SpecError
from experiments.data import texts
from experiments.launch import shielded
from experiments.plan import plan
from experiments.record import RunRecord
from experiments.spec import ExperimentSpec
from experiments.train import train
from sweeps.job import Job
from sweeps.pool import Pool, cores, worker_count
from sweeps.worker import send, trainer


@pytest.fixture
def job(tiny, tmp_path):
    """job(name, lr, **train) gives a run that does what its learning rate says."""

    def made(name, lr=fakes.FINE, **train):
        spec = ExperimentSpec.parse(tiny | {"optimizer": {"lr": lr}, "train": tiny["train"] | train})
        return Job(name, 0, fakes.planned(spec, name=name), tmp_path / name)

    return made


def ran(jobs, size=1, events=None, pool=None, prepare=fakes.prepare):
    """Run the jobs in a pool: {arm: Outcome}."""
    outcomes, left = {}, iter(jobs)

    def report(event):
        if events is not None:
            events.append(event)
        if event.outcome:
            outcomes[event.job.arm] = event.outcome

    with pool or Pool(size, prepare) as pool:
        pool.run(lambda: next(left, None), report)
    assert not any(each.process.is_alive() for each in pool.workers)
    return outcomes


def visitors(job):
    """The ids of the processes that trained a run, in order."""
    return (job.folder / "visits").read_text().split()


def test_a_worker_is_kept_from_run_to_run(job):
    jobs = [job("a"), job("b"), job("c")]
    outcomes = ran(jobs)
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    assert len({pid for each in jobs for pid in visitors(each)}) == 1


def test_a_job_that_went_through_json_trains_the_same_run(tiny, corpus_file, tmp_path, monkeypatch):
    """Also from a checkpoint, and without reading the texts again; texts that have changed are noticed."""
    texts_file = tmp_path / "texts.jsonl"
    texts_file.write_bytes(corpus_file.read_bytes())
    tiny["data"]["source"]["files"] = [str(texts_file)]
    first = Job("first", 1, plan(tiny), tmp_path / "first")
    alone = train(first.plan, 1, first.folder)
    assert Job.parse(json.loads(json.dumps(first.dump()))) == first
    second = Job("second", 2, plan(tiny | {"init_from": str(first.folder)}), tmp_path / "second")
    expected = train(second.plan, 2, tmp_path / "expected")
    texts._KNOWN.clear()  # as in the process of a worker
    with monkeypatch.context() as patch:
        patch.setattr(registry.component("source", "text"), "documents", lambda self: pytest.fail("read again"))
        done = trainer(1)(json.loads(json.dumps({**second.dump(), "runs_at_once": 3})), None, None)
    assert done["timing"]["runs_at_once"] == 3
    assert json.loads(json.dumps(done))["metrics"] == expected.metrics != alone.metrics
    with texts_file.open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    changed = trainer(1)(Job("third", 3, first.plan, tmp_path / "third").dump(), None, None)
    assert changed["status"] == "failed" and "corpus has changed" in changed["failure"]["message"]


def test_a_run_is_told_how_many_run_at_once(job):
    for size in (1, 2):
        outcomes = ran([job(f"{size}a"), job(f"{size}b")], size)
        assert {outcome.record.timing["runs_at_once"] for outcome in outcomes.values()} == {size}


def test_runs_with_other_threads_get_another_worker(job):
    jobs = [job("a", threads=1), job("b", threads=2)]
    outcomes = ran(jobs)  # fakes.prepare asserts the thread variables
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    assert visitors(jobs[0]) != visitors(jobs[1])


def test_a_killed_workers_run_is_tried_once_more_and_the_others_finish(job):
    jobs, events = [job("a"), job("b", fakes.DIES_ONCE), job("c", fakes.DIES), job("d")], []
    outcomes = ran(jobs, 2, events)
    assert {name: each.status for name, each in outcomes.items()} == {
        "a": "finished",
        "b": "finished",
        "c": "lost",
        "d": "finished",
    }
    assert len(set(visitors(jobs[1]))) == len(set(visitors(jobs[2]))) == 2
    assert "SIGKILL" in outcomes["c"].message
    assert [event.job.arm for event in events if event.kind == "again"].count("b") == 1
    lost = RunRecord.read_whole(jobs[2].folder)
    assert (lost.status, lost.failure.error, lost.identity) == ("failed", "WorkerLost", jobs[2].plan.identity)


def test_a_run_that_fails_or_cannot_be_recorded_does_not_end_the_others(job):
    outcomes = ran([job("a", fakes.FAILS), job("b", fakes.RAISES), job("c")])
    assert [outcomes[name].status for name in "abc"] == ["failed", "failed", "finished"]
    assert "nan" in outcomes["a"].message and "Input/output error" in outcomes["b"].message


def test_a_full_disk_ends_all_with_one_error_and_leaves_every_run_to_do(job):
    jobs, events = [job("a"), job("b", fakes.FULL), job("c", fakes.FULL), job("d")], []
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device; make room, and the same command goes on"):
        ran(jobs, 1, events)
    assert [event.outcome.job.arm for event in events if event.outcome] == ["a"]
    assert not jobs[2].folder.exists() and not jobs[3].folder.exists()


def test_a_worker_that_cannot_start_is_an_error_and_not_a_failed_run(job):
    with pytest.raises(RuntimeError, match="no such thing"):
        ran([job("a")], prepare=fakes.broken)


def test_what_the_report_of_an_event_raises_ends_the_pool_and_is_not_a_worker_that_died(job):
    """As where `| head` has read enough: the worker lives, and nobody may wait for its end."""

    def report(event):
        raise BrokenPipeError

    left = iter([job("a")])
    with Pool(1, fakes.prepare) as pool, pytest.raises(BrokenPipeError):
        pool.run(lambda: next(left, None), report)
    assert not pool.workers


def test_a_run_that_another_process_writes_is_waited_for_while_others_go_on(job, monkeypatch):
    monkeypatch.setattr("sweeps.pool.BUSY_FOLDER_PAUSE", 0.3)
    held, free, events = job("held"), job("free"), []
    held.folder.mkdir()
    lock = FileLock(held.folder / ".lock", thread_local=False)
    lock.acquire()

    def release_when_free_is_done():
        while not (free.folder / "record.json").exists():
            time.sleep(0.05)
        assert not (held.folder / "visits").exists()
        lock.release()

    thread = threading.Thread(target=release_when_free_is_done)
    thread.start()
    outcomes = ran([held, free], events=events)
    thread.join()
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    assert list(outcomes) == ["free", "held"]
    assert any(event.kind == "waiting" and event.job is held for event in events)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_every_run_save_itself(job, number):
    jobs, events = [job("a", fakes.WAITS), job("b", fakes.WAITS), job("c")], []
    pool, outcomes, left = Pool(2, fakes.prepare), {}, iter(jobs)

    def report(event):
        events.append(event)
        if event.outcome:
            outcomes[event.job.arm] = event.outcome.status
        if sum(each.kind == "progress" for each in events) == 2 and event.kind == "progress":
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), pool:
        pool.run(lambda: next(left, None), report)
    assert outcomes == {"a": "interrupted", "b": "interrupted"}
    assert {RunRecord.read_whole(each.folder).status for each in jobs[:2]} == {"interrupted"}
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("prepare", "lr"), [(fakes.prepare_slowly, fakes.FINE), (fakes.prepare, fakes.SILENT)])
def test_a_worker_that_has_nothing_to_save_is_not_waited_for(prepare, lr, job):
    """It imports its libraries, or its run has told of no step: both take longer than anybody waits after Ctrl-C."""
    pool, one, events, left = Pool(1, prepare), job("a", lr), [], iter([job("a", lr)])

    def tick():
        begun = any(event.kind == "started" for event in events)
        trains = prepare is fakes.prepare_slowly or (begun and (one.folder / "visits").exists())
        if trains and not pool.signals and not any(event.kind == "stopping" for event in events):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt), pool:
        pool.run(lambda: next(left, None), events.append, tick)
    assert [event.kind for event in events if event.kind != "started"] == ["stopping", "ended"]
    assert (events[-1].outcome.status, events[-1].outcome.message) == ("interrupted", "it had not begun")
    assert not multiprocessing.active_children()


def test_ctrl_c_does_not_reach_a_process_while_it_is_started():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with shielded():
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    os.kill(process.pid, signal.SIGINT)
    process.join(0.5)
    assert process.is_alive()
    process.kill()
    process.join()


def test_workers_end_when_their_pool_is_gone(job):
    pool, one = Pool(1, fakes.prepare), job("a", fakes.WAITS)
    worker = pool._worker_for(one)
    send(worker.conn, one.dump())
    while not (one.folder / "visits").exists():
        time.sleep(0.02)
    worker.conn.close()  # what the system does when the pool's process dies
    worker.process.join(10)
    assert worker.process.exitcode == 0 and RunRecord.read_whole(one.folder).status == "interrupted"


@pytest.mark.parametrize(
    ("available", "threads", "runs", "workers"),
    [(2, 1, 15, 2), (2, 2, 15, 1), (1, 4, 15, 1), (64, 4, 15, 15), (64, 8, 15, 8), (7, 2, 9, 3), (8, 1, 0, 1)],
)
def test_no_core_is_used_twice(job, available, threads, runs, workers):
    jobs = [job("a", threads=threads)] * runs
    count = worker_count(jobs, available=available)
    assert count == workers
    assert count == 1 or count * threads <= available
    most = max(1, available // threads) if runs else available
    with pytest.raises(SpecError, match=f"at most {most}"):
        worker_count(jobs, asked=most + 1, available=available)
    assert worker_count(jobs, asked=1, available=available) == 1


def test_runs_on_an_accelerator_go_one_at_a_time(job):
    assert worker_count([job("a", accelerator="gpu")] * 3, available=8) == 1
    assert cores() >= 1
