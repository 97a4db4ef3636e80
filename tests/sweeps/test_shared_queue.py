"""A queue that several drivers share: nothing is lost, nothing is done twice, and whoever lost a run cannot write for it."""

import io
import os
import threading
import time
from types import SimpleNamespace

import optuna
import pytest
import sweeps_fakes as fakes
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from rich.console import Console

from arch.errors import SpecError
from experiments.record import RunRecord
from sweeps import attempts, open_queue, queue_status, shared_queue, storage, work
from sweeps.job import Outcome
from sweeps.leases import Terms, Watch
from sweeps.queues import Runs
from sweeps.record import StudyRecord
from sweeps.retraining import Retraining
from sweeps.run import run_study

QUICK = Terms(beat=0.05, lease=0.3, losses=2)


class Clock:
    """A monotonic clock that tests move."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def url(tmp_path):
    """The URL of a journal."""
    return f"journal:{tmp_path}/queue"


@pytest.fixture
def join(url, plan_study, study_data):
    """join(terms=QUICK) gives a new driver's Shared of one study, with its own connection."""
    plan = plan_study(study_data)

    def joined(terms=QUICK, plan=plan, say=lambda text: None):
        queue = open_queue.opened(storage.opened(url), plan, say)
        queue = shared_queue.SharedQueue(queue.study, queue.storage, terms, queue.forgiven, say)
        return work.Shared(Retraining(Runs("runs", plan.jobs()), plan), queue, plan.folder)

    return joined


def finish(shared, job):
    """Do a job as a worker would, and tell."""
    job.folder.mkdir(parents=True, exist_ok=True)
    fakes.finish(job)
    shared.told(Outcome(job, "finished", RunRecord.read(job.folder)))


def states(shared):
    """[(run's state, why)] of the queue, in order."""
    return [(row.state, row.why) for row in shared.queue.read()]


def test_runs_are_done_once_and_their_attempts_become_the_runs(join):
    one, two = join(), join()
    for shared in (one, two, one, two):
        job = shared.take()
        assert job.folder.parent == job.home and job.folder.name.startswith("attempt-")
        finish(shared, job)
    for shared in (one, two):
        assert not shared.tick() or not shared.tick()
        assert {each.status for each in shared.source.source.outcomes()} == {"finished"}
        assert shared.take() is None
    assert [row.state for row in one.queue.read() if row.why != "duplicate"] == ["COMPLETE"] * 4
    assert not list(one.folder.rglob("attempt-*"))


def test_two_drivers_may_queue_the_same_run_and_one_of_them_does_it(join):
    one, two = join(), join()
    one.tick()
    two.tick()
    run = one.key(one.ready[0])
    one.queue.add(run)
    two.queue.add(run)
    first = one.take()
    assert one.key(SimpleNamespace(folder=first.home)) == run
    two.looked = float("-inf")
    assert two.take() is None  # the next trial that waits is for the same run
    assert states(two)[:2] == [("RUNNING", None), ("FAIL", "duplicate")]


def test_a_trial_that_optuna_made_up_is_failed(join):
    shared = join()
    assert shared.queue.take() is None
    assert states(shared) == [("FAIL", "made up")]


def test_a_run_whose_driver_died_is_done_by_another_which_goes_on_where_it_was(join, monkeypatch):
    one, two = join(), join()
    clock = Clock()
    two.queue.watch = Watch(10.0, clock)
    job = one.take()
    while True:
        two._look(0.0)
        clock.now += 0.1
        if ("FAIL", "lost") in states(two):
            break
        assert clock.now < 102
    assert clock.now - 100 > QUICK.lease - QUICK.beat
    # The first driver wakes: it is told by its next look, ends its worker, and what that wrote is not read.
    ended = []
    one.abandon = ended.append
    one._look(0.0)
    assert ended == [job]
    finish(one, job)
    assert not one.mine and not one.queue.pending
    assert RunRecord.read_whole(job.home) is None
    rows = [row for row in one.queue.read() if row.run == one.key(SimpleNamespace(folder=job.home))]
    assert rows[0].state == "FAIL" and "has not been heard of" in rows[0].note
    # Its late result may still be taken over, as a whole, by a new attempt; the run's folder itself is the winner's.
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        one.queue.storage.set_trial_user_attr(0, "beat", 1)


def test_a_beat_keeps_a_run_and_its_step_is_shown(join, url):
    one, two = join(), join()
    clock = Clock()
    two.queue.watch = Watch(10.0, clock)
    job = one.take()
    one.progress(job, {"step": 7})
    for _ in range(20):
        one.next_beat = 0.0
        one.tick()
        two._look(0.0)
        clock.now += 0.2
    assert ("FAIL", "lost") not in states(two)
    console = Console(file=io.StringIO(), width=200)
    queue_status.printed(url, "asked", None, console)
    shown = console.file.getvalue()
    assert str(os.getpid()) in shown and shared_queue.HOST in shown and " 7 " in shown and " ago" in shown and "late" not in shown


def test_a_watcher_that_stood_still_or_could_not_write_takes_nothing_away():
    clock = Clock()
    watch = Watch(1.0, clock)
    assert watch.ages({1: "a"}) == {1: 0.0}
    clock.now += 3600.0
    assert watch.ages({1: "a"}) == {1: 1.0}  # an hour in which this process did not look
    clock.now += 0.5
    assert watch.ages({1: "b", 2: None}) == {1: 0.0, 2: 0.0}
    watch.forget()
    clock.now += 0.5
    assert watch.ages({1: "b"}) == {1: 0.0}


def test_the_wall_clock_and_the_time_zone_decide_nothing(join, monkeypatch):
    one, two = join(), join()
    job = one.take()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 1e6)
    for _ in range(3):
        two._look(0.0)
    assert states(two)[0] == ("RUNNING", None)
    finish(one, job)
    assert states(two)[0] == ("COMPLETE", None)
    monkeypatch.undo()
    time.tzset()


def test_an_outage_makes_nobody_stale_and_what_ended_meanwhile_is_told_later(join, monkeypatch):
    said = []
    one, two = join(say=said.append), join()
    clock = Clock()
    two.queue.watch = Watch(10.0, clock)
    job = one.take()
    two._look(0.0)
    real = type(one.queue.study).tell, type(one.queue.study).get_trials

    def away(*_, **__):
        raise StorageInternalError("something of invalid data") from ConnectionError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(type(one.queue.study), "get_trials", away)
        patch.setattr(type(one.queue.study), "tell", away)
        finish(one, job)
        two._look(0.0)
        assert one.queue.pending and not one.over and one.take() is None
        clock.now += 1000.0
    assert (type(one.queue.study).tell, type(one.queue.study).get_trials) == real
    one.queue.next_try = two.queue.next_try = 0.0
    two._look(0.0)
    assert states(two)[0] == ("RUNNING", None)  # 1000 s without a beat, and still its driver's
    one._look(0.0)
    assert states(two)[0] == ("COMPLETE", None) and RunRecord.read(job.home).status == "finished"
    assert "connection refused" in said[0] and "invalid" not in said[0] and said[-1].startswith("the storage is back")


def test_a_commit_whose_answer_was_lost_is_no_second_run(join, monkeypatch):
    shared = join()
    job = shared.take()
    real = optuna.Study.tell

    def told_without_answer(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise StorageInternalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", told_without_answer)
        finish(shared, job)
    assert shared.queue.pending
    shared.queue.next_try = 0.0
    shared._look(0.0)
    assert not shared.queue.pending and states(shared)[0] == ("COMPLETE", None)


def test_a_run_is_given_up_after_two_losses_and_one_that_fails_by_itself_at_once(plan_study, study_data, url, console):
    study_data["arms"] = {
        "fine": {},
        "dies": {"optimizer.lr": fakes.DIES},
        "fails": {"optimizer.lr": fakes.FAILS},
        "once": {"optimizer.lr": fakes.DIES_ONCE},
    }
    study_data |= {"seeds": 1, "runs": {}}
    study_data["arms"]["needs"] = {"init_from": {"run": "dies"}}
    plan = plan_study(study_data)

    def run(**more):
        return run_study(plan, 1, console, fakes.prepare, storage=storage.opened(url), **more)

    result = run()
    assert {outcome.job.arm: outcome.status for outcome in result.outcomes} == {
        "fine": "finished",
        "dies": "lost",
        "fails": "failed",
        "once": "lost",  # in an attempt's own folder, a fake that dies on its first visit dies on each
        "needs": "failed",
    }
    queue = open_queue.opened(storage.opened(url), plan, print)
    whys = [row.why for row in queue.read() if row.state == "FAIL"]
    assert sorted(whys) == ["failed", "lost", "lost", "lost", "lost"]
    folder = {job.arm: job.folder for job in plan.jobs()}
    assert RunRecord.read(folder["dies"]).failure.error == "WorkerLost"
    assert RunRecord.read(folder["fails"]).failure.message == "the loss is nan"
    assert RunRecord.read(folder["needs"]).failure.error == "NeedFailed"
    # Another start does nothing more; with `again` it tries what failed.
    run()
    assert len(queue.read()) == 6
    run(again=True)
    assert len(queue.read()) == 11
    shown = Console(file=io.StringIO(), width=200)
    queue_status.printed(url, "asked", None, shown)
    text = shown.file.getvalue()
    assert text.count("given up after it was lost 2 times") == 2 and "failed: fails-" in text and "blocked: needs-" in text


def test_several_drivers_finish_a_study_and_its_record_and_queue_can_be_lost(plan_study, study_data, url, tmp_path, console):
    plan = plan_study(study_data | {"seeds": 3})
    results = []

    def drive():
        own = Console(file=io.StringIO(), width=200)
        results.append(run_study(plan, 1, own, fakes.prepare, storage=storage.opened(url)))

    threads = [threading.Thread(target=drive) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.complete for result in results] == [True] * 3
    assert StudyRecord.read(plan.folder).seeds == [0, 1, 2]
    runs = [row.run for row in open_queue.opened(storage.opened(url), plan, print).read() if row.state == "COMPLETE"]
    assert len(runs) == len(set(runs)) == 6
    visits = [len((job.folder / "visits").read_text().split()) for job in plan.jobs()]
    assert visits == [1] * 6
    # The queue is gone: the records say what is done. A record is gone: its run is done again.
    os.unlink(tmp_path / "queue")
    (plan.jobs()[0].folder / "record.json").unlink()
    assert run_study(plan, 1, console, fakes.prepare, storage=storage.opened(url)).complete
    (row,) = open_queue.opened(storage.opened(url), plan, print).read()
    assert row.state == "COMPLETE"


def test_interrupted_runs_do_not_count_and_full_disks_neither(join):
    shared = join()
    for outcome in ("interrupted", "interrupted", "interrupted"):
        job = shared.take()
        shared.told(Outcome(job, outcome))
    assert states(shared) == [("FAIL", "interrupted")] * 3
    job = shared.take()
    shared.told(Outcome(job, "failed", message="OSError: [Errno 28] No space left on device"))
    assert states(shared)[3] == ("FAIL", "disk")
    shared.room_at += 60.0
    assert shared.take() is None  # not before something can be written
    shared.room_at, shared.looked = 0.001, float("-inf")
    assert shared.take() is not None


def test_another_study_or_another_folder_or_another_code_is_refused(plan_study, study_data, url, tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setenv("ARCHBENCH_BEAT", "0.1")
    monkeypatch.setenv("ARCHBENCH_LEASE", "0.6")
    plan, opened = plan_study(study_data), storage.opened(url)
    queue = open_queue.opened(opened, plan, print)
    queue.add("a run")
    number, over = queue.take().number, threading.Event()

    def beat():
        while not over.wait(0.05):
            queue.beat(number)

    at_work = threading.Thread(target=beat)
    at_work.start()
    other = replace(plan_study(study_data | {"question": "Another?"}), runs=tmp_path / "other")
    with pytest.raises(SpecError, match=r"the storage has another study 'asked' \('Is it\?', runs in .*: rename one"):
        open_queue.opened(opened, other, print)
    with pytest.raises(SpecError, match="is not the folder in which this study's drivers write"):
        open_queue.opened(opened, replace(plan, runs=tmp_path / "other"), print)
    assert not (tmp_path / "other").exists()
    edited = plan_study(study_data | {"seeds": 4, "question": "Is it, really?"})
    assert open_queue.opened(opened, edited, print).read()  # an edited study goes on
    monkeypatch.setattr(open_queue, "sources", lambda: "other")
    monkeypatch.setattr(open_queue, "CODE", {"commit": "c0ffee" * 6, "dirty": True})
    with pytest.raises(SpecError, match=r"run the code of .*, and this is c0ffeec0ffee with changes: one study needs one version"):
        open_queue.opened(opened, plan, print)
    over.set()
    at_work.join()
    queue.study.tell(number, state=TrialState.FAIL)
    assert open_queue.opened(opened, plan, print).study.user_attrs["code"]["sources"] == "other"  # nobody is at work
    queue.study.set_user_attr("optuna", "4.8.0")
    with pytest.raises(SpecError, match=r"made by Optuna 4\.8\.0, and here is Optuna 5"):
        open_queue.opened(opened, plan, print)


@pytest.mark.parametrize("what", ["code", "folder"])
def test_what_dead_drivers_of_other_code_or_another_folder_left_is_taken_over_after_a_lease(
    what, plan_study, study_data, url, tmp_path, monkeypatch
):
    from dataclasses import replace

    monkeypatch.setenv("ARCHBENCH_BEAT", "0.1")
    monkeypatch.setenv("ARCHBENCH_LEASE", "0.4")
    plan, opened, lines = plan_study(study_data), storage.opened(url), []
    old = work.Shared(Retraining(Runs("runs", plan.jobs()), plan), open_queue.opened(opened, plan, print), plan.folder)
    assert old.take() is not None
    old.queue.add("another-run/seed-0")  # and then its driver is killed
    if what == "code":
        monkeypatch.setattr(open_queue, "sources", lambda: "newer")
    else:
        plan = replace(plan, runs=tmp_path / "moved")
    new = work.Shared(Retraining(Runs("runs", plan.jobs()), plan), open_queue.opened(opened, plan, lines.append), plan.folder)
    assert lines == ["others have left 2 runs in the queue: looking for 0.4 s whether anybody still works on them"]
    assert states(new) == [("FAIL", "interrupted")] * 2  # a kill on purpose is no loss
    assert new.take() is not None
    # The old one was only asleep. It does nothing more, so no study is of two versions.
    old.looked = float("-inf")
    with pytest.raises(SpecError, match=r"asked/base/runs goes on with the code of .*: this driver stood still for longer than"):
        old.take()


def test_a_study_that_is_refused_opens_no_storage(plan_study, study_data, console):
    with pytest.raises(SpecError, match="--workers 99: at most"):
        run_study(plan_study(study_data), 99, console, fakes.prepare, storage=lambda: pytest.fail("it was opened"))


def test_a_run_of_more_processes_than_cores_is_warned_of(plan_study, study_data, console, monkeypatch):
    monkeypatch.setattr("sweeps.pool.cores", lambda: 2)
    train = {**study_data["train"], "devices": 4}
    run_study(plan_study(study_data | {"train": train, "seeds": 1}), 1, console, fakes.prepare)
    assert (
        "warning: a run keeps 4 cores busy (train.threads x train.devices), and here are 2: it is slow" in console.file.getvalue()
    )


def test_a_run_that_no_driver_knows_is_left_alone_and_then_failed(join):
    shared = join()
    shared.queue.add("of-another-version/seed-0")
    assert shared.take() is None
    time.sleep(QUICK.lease + 0.1)
    shared.looked = float("-inf")
    shared.take()
    assert states(shared)[0] == ("FAIL", "unknown")
    shared.looked = float("-inf")
    assert shared.take() is not None


def test_what_is_complete_is_promoted_by_whoever_sees_it(join):
    one, two = join(), join()
    job = one.take()
    job.folder.mkdir(parents=True)
    fakes.finish(job)
    (number,) = one.mine
    one.queue.finish(number, one.key(job))  # and then its driver dies
    assert attempts.has_result(job.folder, job.plan.identity, job.seed) and not (job.home / "record.json").exists()
    two._look(0.0)
    assert RunRecord.read(job.home).status == "finished" and not job.folder.exists()


@pytest.mark.parametrize("spoil", ["removed", "cut short"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_run_that_others_need_is_done_again_if_its_record_is_lost(shared, spoil, plan_study, study_data, url, join):
    arms = {"first": {}, "then": {"init_from": {"run": "first"}}, "last": {"init_from": {"run": "then"}}}
    plan = plan_study(study_data | {"arms": arms, "seeds": 1})
    queue = join(plan=plan) if shared else Runs("runs", plan.jobs())

    def done():
        if shared:
            queue.looked = float("-inf")
        job = queue.take()
        job.folder.mkdir(parents=True, exist_ok=True)
        fakes.finish(job)
        queue.told(Outcome(job, "finished", RunRecord.read(job.folder)))
        return job

    first = done()
    record = (first.home or first.folder) / "record.json"
    if shared:
        queue._look(0.0)
    record.write_text(record.read_text()[:100]) if spoil == "cut short" else record.unlink()
    assert [done().arm for _ in range(3)] == ["first", "then", "last"]
    if shared:
        queue._look(0.0)
    assert RunRecord.read(record.parent).status == "finished" and queue.take() is None


def test_several_drivers_share_a_search_and_agree_on_its_winner(plan_study, study_data, url):
    search = {"space": {"optimizer.lr": {"low": 1e-2, "high": 3e-2}}, "minimise": "select/loss", "trials": 5, "sampler": "random"}
    plan = plan_study(study_data | {"search": search, "seeds": 1})
    results = []

    def drive():
        own = Console(file=io.StringIO(), width=200)
        results.append(run_study(plan, 1, own, fakes.prepare, storage=storage.opened(url)))

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.complete for result in results] == [True, True]
    record = StudyRecord.read(plan.folder)
    begun = [trial for trial in record.trials if trial.run]
    assert len(begun) == 5 and {trial.state for trial in begun} == {"finished"}
    best = min(begun, key=lambda trial: trial.value)
    assert record.search["winners"] == {"best 1": best.number}
    rows = [row for row in open_queue.opened(storage.opened(url), plan, print).read() if row.state == "COMPLETE"]
    assert sorted(row.run.startswith("tune/") for row in rows) == [False] * 3 + [True] * 5
    assert not list(plan.folder.rglob("attempt-*")) and not (plan.folder / "study.db").exists()
