"""A worker process: it imports the world once, then does one run after another until it is told to stop.

It talks to its pool over one pipe. In: a Job, or STOP. Out: tuples (word, content); READY first. A pipe of its own
for every worker, because a shared queue may stay locked for ever when a process is killed while it writes.
"""

import faulthandler
import os
import signal
import traceback
from contextlib import suppress

from filelock import FileLock, Timeout

STOP = "stop"
LOCK = ".lock"


def trainer(threads):
    """The function that does a run, imported after this process is pinned to its threads."""
    from experiments import device

    device.setup(threads)
    from experiments.train import train

    def trained(*args, **options):
        try:
            return train(*args, **options)
        finally:
            device.release_memory()  # a large run's memory is not this worker's for ever: others share the machine

    return trained


def serve(conn, prepare, threads, log):
    """Be a worker until the pool says STOP, closes the pipe or dies. `prepare(threads)` gives the training function."""
    _write_output_to(log)
    stop = _Stop(conn)
    try:
        train = prepare(threads)
    except BaseException:
        conn.send(("broken", traceback.format_exc()))
        raise
    _send(conn, "ready", None)
    while not stop.told:
        try:
            message = conn.recv()
        except (EOFError, OSError):
            return
        if message == STOP:
            return
        _do(message, train, conn, stop)


def _do(job, train, conn, stop):
    """One run under its folder's lock, which the system releases whatever becomes of this process."""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(job.folder / LOCK)
        with lock.acquire(timeout=0):
            _send(conn, "started", None)
            record = train(job.plan, job.seed, job.folder, progress=lambda state: _send(conn, "progress", dict(state)), stop=stop)
    except Timeout:
        _send(conn, "locked", None)
    except Exception as error:
        # train() turns a failure into a record; what gets here could not be recorded, e.g. on a full disk.
        traceback.print_exc()
        _send(conn, "crashed", f"{type(error).__name__}: {error}")
    else:
        _send(conn, "record", record)


class _Stop:
    """True once this worker should save its run and end: told by the pool, by SIGTERM, or because the pool is gone."""

    def __init__(self, conn):
        self.conn, self.told = conn, False
        # Ctrl-C reaches every process of the terminal; only the pool decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, signum, frame):
        self.told = True

    def __call__(self):
        try:
            # Asked during a run only, and then the pool sends nothing but STOP: no job is swallowed here.
            if not self.told and self.conn.poll():
                self.told = self.conn.recv() == STOP
        except (EOFError, OSError):
            self.told = True
        return self.told


def _send(conn, word, content):
    with suppress(BrokenPipeError, ConnectionResetError):  # The pool is gone; stop() says so before the next step.
        conn.send((word, content))


def _write_output_to(log):
    """Send this process's output, and the stack of a crash, to a file: it would tear the pool's live table."""
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    faulthandler.enable()
