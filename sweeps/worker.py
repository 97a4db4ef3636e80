"""A worker process: it imports the libraries once, then does one run after another until it is told to stop.

It talks to its pool over one pipe, in JSON. In: a job (`sweeps.job.Job.dump`, with `runs_at_once`), or a word of
`experiments.orders`; STOP ends the worker too. Out: [word, content]; the first says "ready". Every worker has its own pipe,
because a shared queue can stay locked for ever when a process is killed while it writes.
"""

import faulthandler
import json
import os
import signal
import traceback
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.launch import RankLost
from experiments.orders import ABANDON, PRUNE, STOP

LOCK = ".lock"


def trainer(threads):
    """The function that does a job: plain data in, a record as plain data out.

    What it needs is imported only after this process is pinned to its threads.
    """
    from experiments import device

    device.setup(threads)
    from experiments import checkpoint
    from experiments.data import texts
    from experiments.train import train
    from sweeps import attempts
    from sweeps.job import Job

    def trained(data, progress, stop):
        data = dict(data)
        runs_at_once = data.pop("runs_at_once", None)
        job = Job.parse(data)
        texts.remember(job.plan.texts)
        try:
            if job.home:
                attempts.begin(job.folder, job.home, job.plan.identity, job.seed, checkpoint.newest, checkpoint.is_whole)
            return train(job.plan, job.seed, job.folder, progress, stop, runs_at_once, home=job.home).dump()
        finally:
            device.release_memory()  # other processes share the machine: do not keep a large run's memory

    return trained


def serve(conn, prepare, threads, log):
    """Do the pool's jobs until it sends STOP, closes the pipe or dies. prepare: see `trainer`."""
    _write_output_to(log)
    stop = _Stop(conn)
    try:
        train = prepare(threads)
    except BaseException:
        _send(conn, "broken", traceback.format_exc())
        raise
    _send(conn, "ready", None)
    while not stop.told:
        try:
            message = received(conn)
        except (EOFError, OSError):
            return
        if message == STOP:
            return
        if message in (PRUNE, ABANDON):
            continue  # it came too late: that run has ended
        _do(message, train, conn, stop)


def _do(job, train, conn, stop):
    """Do one run while holding its folder's lock. The operating system releases the lock even if this process dies."""
    folder = Path(job["folder"])
    stop.word = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        with lock.acquire(timeout=0):
            _send(conn, "started", None)
            record = train(job, progress=lambda state: _send(conn, "progress", dict(state)), stop=stop)
    except Timeout:
        _send(conn, "locked", None)
    except RankLost as lost:
        _send(conn, "lost", str(lost))
    except (Exception, SystemExit) as error:
        # train() turns a failure into a record. This one could not be recorded, e.g. because the disk is full.
        traceback.print_exc()
        _send(conn, "crashed", f"{type(error).__name__}: {error}")
    else:
        _send(conn, "abandoned" if stop.word == ABANDON else "record", record)


class _Stop:
    """A callable: what the run of this worker is told, or None. STOP also on SIGTERM, and if the pool has died.

    told: whether the worker is to end. word: the last word for the present run.
    """

    def __init__(self, conn):
        self.conn, self.told, self.word = conn, False, None
        # Ctrl-C reaches every process of the terminal, but only the pool reacts to it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, signum, frame):
        self.told = True

    def __call__(self):
        try:
            # This is called only during a run. The pool then sends nothing but words, so no job is lost here.
            while not self.told and self.word is None and self.conn.poll():
                word = received(self.conn)
                self.told = word == STOP
                self.word = None if self.told else word
        except (EOFError, OSError):
            self.told = True
        return self.word or (STOP if self.told else None)


def send(conn, message):
    """Write a message, plain data, into a pipe. Raises OSError."""
    conn.send_bytes(json.dumps(message).encode())


def received(conn):
    """The next message of a pipe. Raises EOFError, OSError."""
    return json.loads(conn.recv_bytes())


def _send(conn, word, content):
    with suppress(BrokenPipeError, ConnectionResetError):  # The pool is gone; stop() notices that before the next step.
        send(conn, [word, content])


def _write_output_to(log):
    """Send this process's output, and the stack of a crash, to a file: it would break the live table."""
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    faulthandler.enable()
