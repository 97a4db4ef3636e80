"""How this process computes: threads, denormals, allocator. To be called once, before any tensor work."""

import ctypes
import gc
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

# glibc's mallopt parameters (malloc.h) and what they are set to: freed memory stays, growth comes in large pieces.
MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 64 << 20)}


def setup(threads):
    """Pin torch to `threads` CPU threads, flush denormals (only effective before the first parallel operation), and
    keep freed memory in the process: fresh pages cost a CPU step more than its arithmetic does.

    Returns what is in force, for a record: {flush_denormal, mallopt: {parameter: value} as accepted, preloaded}.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        with suppress(RuntimeError):  # already fixed by earlier work in this process; it does not change bits
            torch.set_num_interop_threads(1)
    flushed, accepted = torch.set_flush_denormal(True), {}
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        accepted = {name: value for name, (number, value) in MALLOPT.items() if libc.mallopt(number, value)}
    preloaded = [Path(path).name for path in os.environ.get("LD_PRELOAD", "").replace(":", " ").split()]
    return {"flush_denormal": flushed, "mallopt": accepted, "preloaded": preloaded}


def release_memory():
    """Give freed memory back to the system, where `setup` has glibc keep it: before other work in this process, or in
    another one, that needs it."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def hardware():
    """What this machine is: for the record, no part of identity."""
    facts = {"machine": platform.machine(), "cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "os": platform.system()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["gpus"] = torch.cuda.device_count()
    return facts


def _cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def peak_memory_bytes(device):
    """The most memory this process has held: of the GPU where there is one, else resident memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
