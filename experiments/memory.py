"""The memory that this process holds, and the most that it held: GPU memory on CUDA, else resident memory."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_bytes(device):
    """The most bytes held since `forget_peak`, or since this process started: GPU memory if on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes(device):
    """The bytes held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") if STATUS.exists() else peak_bytes(device)


def forget_peak(device):
    """Reset the peak to the memory held now, on CUDA and on Linux. Raises OSError if Linux refuses."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


class Peak:
    """The peak since this object was made, also in a process that has done other work before.

    Where the system cannot forget an earlier peak: exact if memory has risen above it; else the most that was held
    whenever `note` was called; unknown where the system does not say what is held.
    """

    def __init__(self, device):
        self.device, self.forgot = device, device.type == "cuda" or STATUS.exists()
        try:
            forget_peak(device)
        except OSError:
            self.forgot = False
        self.earlier, self.seen = peak_bytes(device), 0
        self.before = held_bytes(device) if device.type == "cuda" or STATUS.exists() else None
        self.note()

    def note(self):
        """Look at the memory held now, where that is needed."""
        if not self.forgot and STATUS.exists():
            with suppress(OSError):
                self.seen = max(self.seen, held_bytes(self.device))

    def bytes(self):
        """The peak in bytes, or None if it is unknown."""
        now = peak_bytes(self.device)
        return float(now) if self.forgot or now > self.earlier else float(self.seen) or None


def _status(name):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
