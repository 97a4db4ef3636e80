"""A pool of worker processes. It survives the death of any worker, and when stopped every run can be resumed."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait

from arch.errors import SpecError
from experiments.gpus import Device
from experiments.launch import THREADS, ending, shielded, variables
from experiments.orders import STOP
from experiments.record import RunRecord
from sweeps import worker
from sweeps.devices import variables as variables_of
from sweeps.job import Event, Job, Outcome, record_failure

TICK = 0.2
BUSY_FOLDER_PAUSE = 2.0
ATTEMPTS = 2
# Seconds that idle workers get to exit by themselves. All that they wrote is on disk by then.
LEAVE = 2.0
# Seconds that a run which has not told of a step gets when all are stopped.
PATIENCE = 0.5


def cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(jobs, asked=None, total=None, available=None, devices=None):
    """The number of workers to start for `total` jobs like these: as many as the cores allow, and at least one.

    devices: what `sweeps.devices` hands to runs on GPUs: then there are as many workers as runs that these are enough for.
    Runs on another accelerator go one at a time unless `asked` is larger, because they would share it. Raises SpecError if
    `asked` workers need more cores or GPUs than there are: runs that share cores are slower than runs one after the other.
    """
    available = available or cores()
    a_run = max((job.cores for job in jobs), default=1)
    most, what = max(1, available // a_run), f"{a_run} thread(s) per run (train.threads) on {available} core(s)"
    if any(job.threads < job.cores for job in jobs):
        what = f"{a_run} threads per run (train.threads x train.devices) on {available} core(s)"
    if devices is not None:
        gpus = max(job.gpus for job in jobs)
        if (fit := max(1, devices.runs(gpus))) < most:
            most, what = fit, f"{gpus} GPU(s) per run (train.devices) of {len(devices.devices)}"
    if asked is not None and asked > most:
        raise SpecError(f"--workers {asked}: at most {most}, with {what}; more workers would only wait for each other")
    alone = devices is None and any(job.plan.spec.train.accelerator != "cpu" for job in jobs)
    return max(1, min(asked or (1 if alone else most), len(jobs) if total is None else total))


@dataclass
class _Worker:
    process: multiprocessing.Process
    conn: multiprocessing.connection.Connection
    threads: int
    log: str | None
    devices: list[Device]
    job: Job | None = None
    ready: bool = False  # whether it has imported its libraries
    begun: bool = False  # whether its run has told of a step, and so has something to save


class Pool:
    """At most `size` workers. Each is started when there is a job for it and is then kept for further runs.

    prepare: an importable function like `sweeps.worker.trainer`. logs: the folder
    for the workers' output (None: they write to this process's output). retries: whether the pool tries a run once more
    whose worker died; if not, its outcome is `lost` at once, and whoever gave the job decides. devices: the
    `sweeps.devices.Handing` of a study on GPUs; a worker has its own of them as long as it lives.
    """

    def __init__(self, size, prepare=worker.trainer, logs=None, retries=True, devices=None):
        self.size, self.prepare, self.logs, self.retries, self.devices = size, prepare, logs, retries, devices
        self.workers, self.started, self.attempts = [], 0, {}
        self.again, self.signals, self.full = deque(), 0, False
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def run(self, take, report, tick=None):
        """Run the jobs that `take()` returns, and call `report(Event)` for everything that happens to them.

        `take` is called again after each outcome, so it may return None when it has no job for now. The method returns
        when `take` gives None and no job is running. tick: called several times a second, also while the pool stops; while
        it returns True there may be a job later, and the pool waits. Where a run fails because the disk is full, no further one
        is begun, and OSError is raised when the others have ended (with `retries`; else whoever gave the job waits for room).
        On SIGINT or SIGTERM every worker saves its run and ends, then KeyboardInterrupt is raised; a second signal kills the
        workers. A worker that has nothing to save yet is not waited for.
        """
        tick = tick or (lambda: False)
        with self._listening_to_signals():
            while True:
                if self.signals:
                    self._stop(report, tick)
                    raise KeyboardInterrupt
                later = tick()
                more = self._dispatch(take)
                if self.full and not self._busy():
                    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; make room, and the same command goes on")
                if not more and not self._busy() and not later:
                    return
                self._hear(report)

    def tell(self, job, word):
        """Tell the worker that does a job a word of `experiments.orders`; nothing happens if the run has ended."""
        for each in self._busy():
            if each.job is job:
                self._tell(each, word)

    def close(self):
        """End all workers: idle ones exit by themselves, the others are killed."""
        for each in self.workers:
            each.conn.close()
        until = time.monotonic() + LEAVE
        for each in self.workers:
            each.process.join(max(0.0, until - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()
                each.process.join()
        self.workers = []

    def _busy(self):
        return [each for each in self.workers if each.job]

    def _dispatch(self, take):
        """Hand out jobs while workers are free. Returns whether a job is waiting to be tried again."""
        while len(self._busy()) < self.size and not self.full:
            now = time.monotonic()
            job = self.again.popleft()[1] if self.again and self.again[0][0] <= now else take()
            if job is None:
                break
            each = self._worker_for(job)
            each.job, each.begun = job, False
            self._tell(each, {**job.dump(), "runs_at_once": self.size})
        return bool(self.again)

    def _worker_for(self, job):
        """An idle worker with the job's thread count and number of GPUs, or a new one.

        Both are fixed once per process, so before a new one starts, idle workers are stopped.
        """
        wanted = job.gpus if self.devices else 0
        idle = [each for each in self.workers if not each.job and each.process.is_alive()]
        for each in idle:
            if each.threads == job.threads and len(each.devices) == wanted:
                return each
        for each in [each for each in self.workers if not each.job]:
            self._tell(each, STOP)
            self._forget(each)
        return self._start(job.threads, self.devices.take(wanted) if wanted else [])

    def _start(self, threads, devices):
        self.started += 1
        log = None if self.logs is None else str(self.logs / f"worker-{os.getpid()}-{self.started}.log")
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.serve, args=(theirs, self.prepare, threads, log), name=f"worker-{self.started}"
        )
        with variables(dict.fromkeys(THREADS, threads) | variables_of(devices)), shielded():
            process.start()
        theirs.close()
        self.workers.append(_Worker(process, mine, threads, log, devices))
        return self.workers[-1]

    def _tell(self, each, message):
        with contextlib.suppress(OSError):  # _hear() notices a dead worker.
            worker.send(each.conn, message)

    def _forget(self, each):
        each.conn.close()
        self.workers.remove(each)
        if each.devices:
            self.devices.give(each.devices)

    def _hear(self, report):
        if not self.workers:
            time.sleep(TICK)
        ready = wait([each.conn for each in self.workers], timeout=TICK)
        for each in list(self.workers):
            # A child of a dead worker may keep its end of the pipe open, so the process is checked too.
            died = each.process.exitcode is not None
            if each.conn in ready or died:
                self._read(each, report, died)

    def _read(self, each, report, died):
        """Handle all messages of a worker, including those that it sent before it died.

        Only an error of its pipe says that it died: what `report` raises, as where nobody reads what is printed, is passed on.
        """
        while True:
            try:
                message = worker.received(each.conn) if each.conn.poll() else None
            except (EOFError, OSError):
                died = True
                break
            if message is None:
                break
            self._understand(each, *message, report)
        if died and each in self.workers:
            each.process.join()
            self._forget(each)
            if each.job:
                self._lost(each, report)

    def _understand(self, each, word, content, report):
        job = each.job
        if word == "broken" and not self.signals:
            raise RuntimeError(f"a worker could not start:\n{content}")
        if word == "ready":
            each.ready = True
        if word == "started":
            report(Event("started", job))
        elif word == "progress":
            each.begun = each.begun or "warning" not in content
            report(Event("progress", job, progress=content, message=content.get("warning", "")))
        elif word == "locked":
            each.job = None
            self.again.append((time.monotonic() + BUSY_FOLDER_PAUSE, job))
            report(Event("waiting", job, message="another process is writing this run; waiting for it"))
        elif word == "lost":
            each.job = None
            self._try_again(job, f"its {content}{_see(each)}", report)
        elif word == "crashed":
            each.job = None
            self._ended(Outcome(job, "failed", message=content), report)
        elif word == "abandoned":
            each.job = None
            report(Event("ended", job, outcome=Outcome(job, "abandoned", message="another process does this run now")))
        elif word == "record":
            each.job = None
            record = RunRecord.parse(content)
            if record.status == "interrupted" and not self.signals:
                self._try_again(job, "its worker was told to stop", report, stopped=True)
            else:
                self._ended(_outcome(job, record), report)

    def _ended(self, outcome, report):
        if outcome.no_room and self.retries:
            self.full = True  # said once, when all have ended; the run is to do again
        else:
            report(Event("ended", outcome.job, outcome=outcome))

    def _lost(self, each, report):
        self._try_again(each.job, f"its worker {ending(each.process.exitcode)}{_see(each)}", report)

    def _try_again(self, job, why, report, stopped=False):
        """Try a run once more on another worker, from its checkpoint. After two lost workers, give the run up."""
        if not self.retries:
            status = "interrupted" if self.signals or stopped else "lost"
            report(Event("ended", job, outcome=Outcome(job, status, message=why)))
            return
        self.attempts[job.folder] = self.attempts.get(job.folder, 1) + 1
        if self.signals:
            report(Event("ended", job, outcome=Outcome(job, "interrupted", message=why)))
        elif self.attempts[job.folder] <= ATTEMPTS:
            self.again.appendleft((0.0, job))
            report(Event("again", job, message=f"{why}; trying once more"))
        else:
            record = record_failure(job, "WorkerLost", f"{why}, twice")
            status = "finished" if record and record.status == "finished" else "lost"
            report(Event("ended", job, outcome=Outcome(job, status, record, f"{why}, twice")))

    def _stop(self, report, tick):
        report(Event("stopping", message="stopping: every run saves a checkpoint; press Ctrl-C again to kill the runs"))
        for each in self.workers:
            self._tell(each, STOP)
        until = time.monotonic() + PATIENCE
        while self._busy() and self.signals < 2:
            for each in self._busy():
                if not each.ready or (not each.begun and time.monotonic() >= until):
                    self._give_up(each, report)
            if self._busy():
                self._hear(report)
                tick()
        for each in self._busy():
            each.process.kill()

    def _give_up(self, each, report):
        """End a worker whose run has nothing to save that is not on disk."""
        each.process.kill()
        job, each.job = each.job, None
        report(Event("ended", job, outcome=Outcome(job, "interrupted", message="it had not begun")))

    @contextlib.contextmanager
    def _listening_to_signals(self):
        """Count signals and raise nothing: an exception in the middle of receiving a message would lose the message."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number, frame):
        self.signals += 1


def _see(each):
    return f"; see {each.log}" if each.log else ""


def _outcome(job, record):
    if record.status == "failed":
        failure = record.failure
        message = failure.reason if failure else "failed"
        return Outcome(job, "failed", record, message)
    return Outcome(job, record.status, record)
