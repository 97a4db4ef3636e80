"""Process-wide settings: threads, denormals, memory allocator. Call `setup` once, before any tensor work."""

import ctypes
import gc
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

# glibc's mallopt parameters (malloc.h) and the values we set: freed memory stays in the process, and the heap grows in
# large pieces.
MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 64 << 20)}
# The contrary: freed memory goes back to the system at once.
RETURNING = {"M_MMAP_MAX": (-4, 1 << 16), "M_MMAP_THRESHOLD": (-3, 1 << 16), "M_TRIM_THRESHOLD": (-1, 0), "M_TOP_PAD": (-2, 0)}


def setup(threads):
    """Pin torch to `threads` CPU threads, flush denormals to zero, and keep freed memory in the process.

    Flushing denormals is only effective before the first parallel operation. Freed memory is kept because fetching
    fresh pages can cost a CPU step more time than its arithmetic.

    Returns the settings in force, for the record: {flush_denormal, mallopt: {parameter: value} as accepted, preloaded}.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        with suppress(RuntimeError):  # earlier work in this process has fixed the number; it does not change bits
            torch.set_num_interop_threads(1)
    flushed = torch.set_flush_denormal(True)
    accepted = _told(MALLOPT)
    preloaded = [Path(path).name for path in os.environ.get("LD_PRELOAD", "").replace(":", " ").split()]
    return {"flush_denormal": flushed, "mallopt": accepted, "preloaded": preloaded}


def return_freed_at_once():
    """From now on, freed memory goes back to the system, so that what this process holds is what it uses; that costs time.

    Else it goes up and down by what the allocator keeps for later, and its peak rises slowly with the number of chances. A C
    library other than glibc is left alone.
    """
    _told(RETURNING)


def _told(parameters):
    """{parameter: value} of those that glibc accepts."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    libc = ctypes.CDLL(None)
    return {name: value for name, (number, value) in parameters.items() if libc.mallopt(number, value)}


def release_memory():
    """Return freed memory to the system, which `setup` tells glibc to keep.

    Call it before other work, in this process or another one, needs the memory.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def hardware():
    """A description of this machine, for the record; it is not part of a run's identity."""
    facts = {"machine": platform.machine(), "cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "os": platform.system()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["gpus"] = torch.cuda.device_count()
    return facts


def cpu_name():
    """The CPU's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def free_bytes():
    """Bytes of memory that programs can still allocate (Linux); infinite if the system does not report it."""
    try:
        with open("/proc/meminfo") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return float("inf")
