"""Timing several pieces of work in turns on one device, and what other programs take of the cores meanwhile."""

import os
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from arch.words import times

Key = TypeVar("Key", bound=Hashable)
STAT = Path("/proc/stat")


def in_turns(works: Mapping[Key, Callable[[], Any]], rounds: int, device: torch.device) -> dict[Key, list[float]]:
    """{key: seconds of each round}. Every work is done once untimed, then once a round, every other round in the opposite order.

    So a machine that gets slower or faster meanwhile does so for all of them.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in works}
    for work in works.values():
        work()
    for turn in range(rounds):
        for key, work in list(works.items())[:: 1 if turn % 2 == 0 else -1]:
            began = now(device)
            work()
            seconds[key].append(now(device) - began)
    return seconds


def ratio(seconds: Collection[float], beside: Collection[float]) -> float:
    """The median over rounds of one work's seconds over those of another in the same round."""
    return statistics.median(one / other for one, other in zip(seconds, beside, strict=True))


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def conditions(device: torch.device, dtype: torch.dtype, rounds: int) -> str:
    """Where and how was timed, in words: `cpu, 1 thread, float32, medians of 3 rounds`."""
    threads = times(torch.get_num_threads(), "thread")
    return f"{device.type}, {threads}, {str(dtype).removeprefix('torch.')}, medians of {times(rounds, 'round')}"


def cores_time(lodgers=()):
    """(idle, busy, busy with this process and each `bench.child.Lodger`): seconds, summed over all cores since they started.

    None if the system does not report them.
    """
    if not STAT.exists():
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().splitlines()[0].split()[1:9]]
    mine = os.times()
    theirs = sum(lodger.seconds() for lodger in lodgers)
    return ticks[3] + ticks[4], sum(ticks) - ticks[3] - ticks[4], mine.user + mine.system + theirs


def others_share(before, after):
    """The share of all cores' time between two `cores_time` that went to other processes (of the host, too)."""
    if before is None:
        return None
    idle, busy, mine = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - mine) / max(idle + busy, 1e-9)
