"""One driver of a study that others drive too: it takes runs from the shared queue, and sees that nothing is lost.

`Shared` stands between a queue of the study (`sweeps.queues`), which says what could be done, and the pool, which does it.
Any driver does all of this whenever it is free: gives up the runs of drivers that are gone, promotes what is complete, ends
what was lost too often, and queues the next run if none waits. So no driver is special, and none is missed.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from arch.words import times
from experiments.record import GONE, Failure
from sweeps import attempts, folders, queue_rows
from sweeps.job import Event, Job, Outcome, record_failure
from sweeps.queue_rows import DISK, DUPLICATE, FAILED, INTERRUPTED, LOST, MACHINE, UNKNOWN, Row
from sweeps.queues import forget, is_done, run_record
from sweeps.shared_queue import HOST, SharedQueue

# Bytes that must be writable before another run starts, after the disk was full.
ROOM = 1 << 22


class Mine(NamedTuple):
    """A run that this driver does. job: as the study's queue gave it. attempt: the same in the attempt's folder."""

    job: Job
    attempt: Job


class Shared:
    """The jobs of a study's queue, shared with other drivers: `take`, `told` and `tick` for a `Pool`.

    source: the study's queue, with what its runs need first (`sweeps.retraining`). queue: the SharedQueue. abandon: called with
    the Job of a run that is somebody else's now.
    events: what there is to show, of runs that ended here or elsewhere; whoever shows them empties the list.
    """

    def __init__(self, source: Any, queue: SharedQueue, folder: Path, abandon: Callable[[Job], None] = lambda job: None):
        self.source, self.queue, self.folder, self.abandon = source, queue, Path(folder), abandon
        self.jobs: dict[str, Job] = {}
        self.mine: dict[int, Mine] = {}
        self.here: dict[str, Outcome] = {}
        self.rows: list[Row] = []
        self.ready: list[Job] = []
        self.events: list[Event] = []
        self.blocked: dict[str, str] = {}
        self.strange: dict[int, float] = {}
        self.steps: dict[int, int] = {}
        self.abandoned: set[int] = set()
        self.next_beat = self.room_at = 0.0
        self.looked = float("-inf")
        self.over = self.held = False

    def take(self) -> Job | None:
        """The next job in the folder of its attempt, or None if there is none for now."""
        if not self._look(self.queue.terms.poll) or not self._has_room():
            return None
        waiting = [row for row in self.rows if row.state == "WAITING"]
        if not waiting:
            if not self.ready:
                return None
            # Drivers that look at the same moment should not all queue the same run.
            job = random.choice(self.ready[: 1 + sum(row.state == "RUNNING" for row in self.rows)])
            self.queue.add(self.key(job))
        elif not self._knows(waiting[0]):
            return None
        row = self.queue.take()
        self.looked = float("-inf")
        return self._begun(row) if row else None

    def told(self, outcome: Outcome) -> None:
        """How a run of this driver ended."""
        number = next((number for number, each in self.mine.items() if each.attempt is outcome.job), None)
        if number is None:
            return
        job = self.mine.pop(number).job
        self.steps.pop(number, None)
        if outcome.status in attempts.ENDS:
            self.here[self.key(job)] = outcome
            self.queue.finish(number, self.key(outcome.job))
        elif outcome.status != "abandoned":
            why = _why(outcome)
            if why == DISK and not self.room_at:
                self.room_at = time.monotonic() + self.queue.terms.poll
                self.queue.say(f"no room on the disk of {self.folder}: waiting for some")
            self.queue.fail(number, why, outcome.message)
            if why == INTERRUPTED:
                self.events.append(Event("ended", job, outcome=replace(outcome, job=job)))
            elif why != FAILED:
                self.events.append(Event("again", job, message=outcome.message))
        self.looked = float("-inf")

    def progress(self, job: Job, state: dict[str, Any]) -> bool:
        """Remember how far a run of this driver is, for those who look at the queue. Returns whether it is to be pruned."""
        for number, each in self.mine.items():
            if each.attempt is job and "step" in state:
                self.steps[number] = int(state["step"])
                return bool(self.queue.tried(partial(self.source.progressed, each.job, state)))
        return False

    def tick(self) -> bool:
        """Beat and look when it is time. Returns whether something may still be to do."""
        now = time.monotonic()
        if now >= self.next_beat:
            self.next_beat = now + self.queue.terms.beat
            self.queue.flush()
            for number in list(self.mine):
                self.queue.beat(number, self.steps.get(number))
        # A driver whose workers are all busy looks at each beat; `take` asks for more.
        self._look(self.queue.terms.beat if self.mine else self.queue.terms.poll)
        return not self.over

    def leave(self, seconds: float = 5.0) -> None:
        """Before this driver ends: tell what could not be told, for a few seconds. Then others wait until its leases end."""
        until = time.monotonic() + seconds
        while self.queue.pending and time.monotonic() < until:
            self.queue.flush()
            time.sleep(0.1)

    def key(self, job: Job) -> str:
        """How the queue calls a run: its folder, as seen from the study's."""
        return Path(folders.relative(job.folder, self.folder)).as_posix()

    def _look(self, pause):
        """Read the queue if the last look is `pause` seconds ago, and do what follows. Returns whether it is known now."""
        now = time.monotonic()
        if now < self.looked + pause:
            return not self.queue.is_away
        self.looked = now
        self.queue.flush()
        rows = self.queue.read()
        if rows is None:
            return False
        self.queue.check_place()
        late = self.queue.stale(rows, {*self.mine, *self.queue.pending})
        for row in late:
            self.queue.lose(row)
        self.rows = (self.queue.read() if late else rows) or rows
        self._abandon_lost()
        try:
            if not self.queue.tried(self._settle):
                return False
        except OSError as error:
            self.queue.say(f"cannot write in {self.folder} ({error.strerror or error}); trying again")
            return False
        return not self.queue.is_away

    def _abandon_lost(self):
        """End the runs of this driver that another has taken away: they write no more, and what they wrote is not read."""
        running = {row.number for row in self.rows if row.state == "RUNNING"}
        for number in [number for number in self.mine if number not in running | self.abandoned]:
            job = self.mine[number].attempt
            self.abandoned.add(number)
            self.abandon(job)
            self.queue.say(f"{job.title}: its lease has ended, so this driver gives it up")

    def _settle(self):
        """Bring the study's queue up to what the trials and the records say; find what could start."""
        by_run = queue_rows.by_run(self.rows)
        self.source.settle()
        self.ready, busy = self._sorted(by_run)
        # Where a job waits for the weights that it reads, no more is asked for: a search learns from what it asked before.
        while not self.ready and not self.held and self.source.ask():
            self.ready, busy = self._sorted(by_run)  # a trial that is infeasible has no runs: then the next one
        self.over = not (self.ready or busy or self.mine or self.queue.pending)
        return True

    def _sorted(self, by_run):
        """(jobs that can be queued, those that wait or run), after every end was told to the study's queue."""
        free: list[Job] = []
        busy: list[Job] = []
        ended = True
        while ended:
            ended, free, busy, self.held = False, [], [], False
            asked: set[str] = set()
            left = deque(self.source.ready())
            while left:
                job = left.popleft()
                key = self.key(job)
                if key in asked:
                    continue
                asked.add(key)
                self.jobs[key] = job
                rows = by_run.get(key, [])
                outcome = self._ended(job, rows)
                if outcome is not None:
                    ended = True
                    self._show(outcome)
                elif any(row.is_live for row in rows):
                    busy.append(job)
                elif needs := self.source.before(job):
                    self.held = True
                    left += needs
                else:
                    free.append(job)
        return free, busy

    def _ended(self, job, rows):
        """The Outcome of a job that has ended by now, or None. What is complete is promoted."""
        for row in rows:
            if row.state == "COMPLETE" and row.attempt:
                attempt = self.folder / row.attempt
                if attempts.has_result(attempt, job.plan.identity, job.seed):
                    attempts.promote(attempt, job.folder)
        if has_result(job):
            attempts.clear(job.folder)
            record = folders.record_of(job.folder)
            return Outcome(job, record.status, record, reused=self.key(job) not in self.here)
        if self._is_weightless(job):
            record = folders.record_of(job.folder)
            failure = Failure(step=record.steps, error="DataError", message=f"{job.folder}: {GONE}; to measure more needs them")
            return Outcome(job, "failed", record.model_copy(update={"status": "failed", "failure": failure}), failure.message)
        if any(row.is_live for row in rows):
            return None
        failed, lost = queue_rows.failures(rows, self.queue.forgiven)
        if failed:
            attempts.record_failed(attempts.folder(job.folder, failed.number), job.folder)
            return Outcome(job, "failed", folders.record_of(job.folder), failed.note)
        if len(lost) < self.queue.terms.losses:
            return None
        message = f"{lost[-1].note}; lost {times(len(lost), 'time')}, `--again` tries it once more"
        return Outcome(job, "lost", record_failure(job, "WorkerLost", message, replaces=False), message)

    def _is_weightless(self, job):
        """Whether a run is finished, but not measured, and its weights are gone. An attempt would put another in its place."""
        finished = folders.is_finished(job.folder, job.plan.identity, job.seed)
        return finished and not job.retrained and not folders.has_weights(job.folder)

    def _show(self, outcome):
        """Tell the study's queue how a job ended, wherever it ran, and what follows from it; keep it for the display."""
        follow = self.source.told(outcome)
        self.events += [Event("ended", each.job, outcome=each) for each in [outcome, *follow]]
        blocked = {self.key(each.job): each.message for each in follow}
        if blocked:
            self.blocked |= blocked
            self.queue.note("blocked", self.blocked)

    def _knows(self, row):
        """Whether a waiting trial is for a run of this driver's study. One that nobody knows for a whole lease is failed."""
        if row.run in self.jobs:
            return True
        since = self.strange.setdefault(row.number, time.monotonic())
        if time.monotonic() - since > self.queue.terms.lease:
            taken = self.queue.take()
            if taken and taken.number == row.number:
                self.queue.fail(taken.number, UNKNOWN, "no driver knows this run")
        return False

    def _begun(self, row):
        """The Job of a trial that was just taken, in the folder of its attempt; None if the trial is not needed."""
        job = self.jobs.get(row.run)
        rows = self.queue.read()
        if rows is None:
            return None  # nobody beats for it, so it will be taken away
        if job is None:
            self.queue.fail(row.number, UNKNOWN, "this driver does not know this run")
            return None
        same = [each for each in rows if each.run == row.run and each.number != row.number]
        if any(each.is_live and each.number < row.number for each in same) or self._ended(job, same) is not None:
            self.queue.fail(row.number, DUPLICATE, "another trial is for this run")
            return None
        located = self.source.located(job)
        attempt = replace(located, folder=attempts.folder(job.folder, row.number), home=job.folder)
        self.mine[row.number] = Mine(job, attempt)
        return attempt

    def _has_room(self):
        """Whether something can be written, after the disk was full."""
        if self.room_at == 0.0:
            return True
        if time.monotonic() < self.room_at:
            return False
        self.room_at = time.monotonic() + self.queue.terms.poll
        probe = self.folder / f".room-{HOST}-{id(self)}"
        try:
            probe.write_bytes(b"\0" * ROOM)
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        self.room_at = 0.0
        return True


def _why(outcome: Outcome) -> str:
    """Why an attempt failed, as the queue says it."""
    if outcome.status in ("interrupted", "lost"):
        return INTERRUPTED if outcome.status == "interrupted" else LOST
    failure = outcome.record.failure if outcome.record else None
    if outcome.no_room:
        return DISK
    return FAILED if failure and not failure.by_machine else MACHINE


def has_result(job: Job) -> bool:
    """Whether a job's run has its result, and everything that is to be measured of it."""
    record = run_record(job)
    return record is not None and (record.status == "pruned" or is_done(job))


def forgive(jobs: list[Job]) -> None:
    """Forget how jobs failed, so that they are tried once more."""
    for job in jobs:
        record = folders.record_of(job.folder)
        if record is not None and record.status == "failed":
            forget(job)
