"""Work in a separate process.

`in_child` runs one function in a fresh process, so that its peak memory can be measured: a process's peak never comes
down. `Lodger` keeps an object in a process of its own, because allocator settings apply to whole processes.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import torch

from experiments.launch import shielded


class ChildFailed(RuntimeError):
    """The function or method failed, or its process ended."""


def in_child(function, *args, threads=1):
    """`function(*args)`, run in a fresh process with this project's settings (`experiments.device.setup`).

    The function, its arguments and its result must be picklable. Raises ChildFailed with the traceback.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, threads, function, args))
    with shielded():
        process.start()
    theirs.close()
    try:
        good, answer = mine.recv()
    except EOFError:
        process.join()
        killed = " (the system does so when memory runs out)" if process.exitcode == -signal.SIGKILL else ""
        raise ChildFailed(f"{function.__name__}: its process ended with {process.exitcode}{killed}") from None
    finally:
        mine.close()
        process.kill()
        process.join()
    if not good:
        raise ChildFailed(answer)
    return answer


def _answer(conn, threads, function, args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal, but the parent decides
    from experiments import device

    device.setup(threads)
    try:
        conn.send((True, function(*args)))
    except Exception:
        conn.send((False, traceback.format_exc()))


class Lodger:
    """An object made by `make(*args)` in a fresh, untouched process. A context manager; leaving it ends the process.

    Only the number of threads is set there: the system's settings for the allocator and for denormals stay.
    The constructor and `call` raise ChildFailed with the reason. Arguments and results must be picklable.
    """

    def __init__(self, make, *args, threads=1):
        context = multiprocessing.get_context("spawn")
        self.conn, theirs = context.Pipe()
        self.process = context.Process(target=_lodge, args=(theirs, threads, make, args))
        with shielded():
            self.process.start()
        theirs.close()
        try:
            self._hear("its start")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def call(self, method, *args):
        """The result of the object's `method(*args)`. Blocks until it is done."""
        with contextlib.suppress(OSError):  # if the process is gone, `_hear` raises
            self.conn.send((method, args))
        return self._hear(method)

    def seconds(self):
        """CPU seconds that the process has used; 0 if the system does not report them."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():
            return 0.0
        words = stat.read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        """End the process."""
        self.conn.close()
        self.process.kill()
        self.process.join()

    def _hear(self, what):
        try:
            good, answer = self.conn.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise ChildFailed(f"{what}: its process ended with {self.process.exitcode}") from None
        if not good:
            raise ChildFailed(answer)
        return answer


def _lodge(conn, threads, make, args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        lodger = make(*args)
        conn.send((True, None))
        while True:
            method, args = conn.recv()
            conn.send((True, getattr(lodger, method)(*args)))
    except EOFError:
        return
    except Exception:
        conn.send((False, traceback.format_exc()))
