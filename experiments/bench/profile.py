"""The time of a training step by kind of operation."""

import time
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity

from experiments.bench.journal import synchronize
from experiments.bench.record import Profile

# {kind: words}. An operation has the kind of its caller. If the caller has none, it has the first kind with a word that
# is in its name. Operations without a kind count as `element-wise`.
KINDS = {
    "optimizer": ("Optimizer.", "clip_grad"),
    "attention": ("scaled_dot_product", "_Banded", "_Blocked", "flash", "softmax"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn"),
    "recurrence": ("linear_scan", "rg_lru"),
    "loss": ("nll_loss", "cross_entropy"),
    "memory": ("aten::copy_", "aten::clone", "aten::cat", "aten::zero_", "aten::fill_", "_pad", "aten::index"),
}
STEPS = 3
REST, OUTSIDE = "element-wise", "outside operations"


def profiled(step, case, device):
    """A Profile of the fastest of STEPS calls of `step()`, after one call to warm up.

    The fastest is used because other programs can only slow a step down. Times are each operation's own time, without
    the operations that it calls; on a GPU, its time on the GPU. `outside operations` is the rest of the step: Python,
    waiting, launching.
    """
    step()
    synchronize()
    return min((_profiled_once(step, case, device) for _ in range(STEPS)), key=lambda each: each.seconds)


def _profiled_once(step, case, device):
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=activities) as profile:
        started = time.perf_counter()
        step()
        synchronize()
        seconds = time.perf_counter() - started
    kinds: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    self_time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # A CUDA kernel is an event without a parent, but its time is also counted in the operation that launched it.
    roots = [event for event in profile.events() if event.cpu_parent is None and event.device_type.name == "CPU"]
    waiting = [(event, None) for event in roots]
    while waiting:
        event, above = waiting.pop()
        kind = above or kind_of(event.name)
        event_seconds = getattr(event, self_time) / 1e6
        kinds[kind or REST] += event_seconds
        operations[event.name] += event_seconds
        waiting += [(child, kind) for child in event.cpu_children]
    kinds[OUTSIDE] = max(0.0, seconds - sum(kinds.values()))
    return Profile(case=case, seconds=seconds, kinds=largest(kinds), operations=largest(operations, 10))


def largest(seconds, count=None):
    """The `count` entries (default: all) of {name: seconds} that take the most time, longest first."""
    return dict(sorted(seconds.items(), key=lambda entry: entry[1], reverse=True)[:count])


def kind_of(name):
    """The kind of an operation by its name, or None."""
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return None
