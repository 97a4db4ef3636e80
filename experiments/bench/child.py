"""One function in a process of its own, and the most memory that it held: a process's peak never comes down."""

import multiprocessing
import signal
import traceback
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


class ChildFailed(RuntimeError):
    """The function failed, or its process was killed."""


def in_child(function, *args, threads=1):
    """`function(*args)` in a fresh process that computes as this one does; both must be picklable.

    Raises ChildFailed with what it said.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, threads, function, args))
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent decides
    from experiments import device

    device.setup(threads)
    try:
        conn.send((True, function(*args)))
    except Exception:
        conn.send((False, traceback.format_exc()))


def peak_bytes(device):
    """The most memory held since `forget_peak`, or since this process began: of the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes(device):
    """The memory held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") if STATUS.exists() else peak_bytes(device)


def forget_peak(device):
    """Let the peak begin again from what is held now, where the system can (CUDA, Linux; raises OSError if it will not)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def _status(name):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
