"""Measurements in turns, each kept as soon as there is one: what is interrupted leaves what it measured."""

import itertools
import os
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from experiments.bench.record import Measurement
from experiments.device import release_memory
from experiments.record import Failure

FEWEST_ROUNDS = 3
STAT = Path("/proc/stat")


class Journal:
    """A BenchRecord in the making, on disk after every measurement. `tell`: called with a line of text a measurement."""

    def __init__(self, record, folder, tell):
        self.record, self.folder, self.tell = record, folder, tell

    def change(self, **update):
        """Change fields of the record and write it."""
        self.record = self.record.model_copy(update=update)
        self.record.write(self.folder)

    def add(self, *measurements):
        """Keep measurements."""
        self.change(measurements=[*self.record.measurements, *measurements])
        for each in measurements:
            self.tell(described(each))

    def note(self, text):
        """Keep a remark on what was left out."""
        self.change(notes=[*self.record.notes, text])
        self.tell(text)

    @contextmanager
    def part(self, name):
        """Whatever goes wrong inside is kept as a failure of `name`, and the benchmark goes on."""
        try:
            yield
        except Exception as error:  # a peer that does not fit in memory must not cost us the rest
            failure = Failure(step=-1, error=type(error).__name__, message=f"{name}: {error}"[:2000])
            self.change(failures=[*self.record.failures, failure])
            self.tell(f"{name}: {type(error).__name__}: {error}"[:300])
        finally:
            release_memory()

    def time(self, what, sides, case, works, of, facts=None, least=0.0, lodger=None):
        """Time the functions `sides` {name: function} in turns and keep a Measurement of each.

            lodger: a child.Lodger in which a side runs; its time is not that of other programs.
        least: seconds for which rounds go on, however few are asked for.
            works: how much of `of` one call does; either may be {side: its own}. facts: {side: its facts}. What has been
            timed when this is interrupted, or when a function fails, is kept.
        """
        seconds, before = {side: [] for side in sides}, cores_time(lodger)
        try:
            in_turns(sides, seconds, self.record.asked["repeats"], self.record.asked["seconds"], least)
        finally:
            others = others_share(before, cores_time(lodger))
            self.add(
                *(
                    Measurement(
                        what=what,
                        side=side,
                        case=case,
                        values=values,
                        work=float(works[side] if isinstance(works, dict) else works),
                        of=of[side] if isinstance(of, dict) else of,
                        others=others,
                        facts=(facts or {}).get(side, {}),
                    )
                    for side, values in seconds.items()
                    if values
                )
            )


def in_turns(sides, seconds, repeats, limit=float("inf"), least=0.0):
    """Call every function of `sides` once to warm up, then `repeats` times in turns, and on until `least` seconds
    have passed; seconds go into `seconds[side]`.

    Once `limit` seconds have passed, the round that is on is the last, but for the first FEWEST_ROUNDS.
    """
    started = time.perf_counter()
    for function in sides.values():
        function()
    synchronize()
    for done in itertools.count():
        passed = time.perf_counter() - started
        if (done >= FEWEST_ROUNDS and passed > limit) or (done >= repeats and passed > least):
            return
        for side, function in sides.items():
            before = time.perf_counter()
            function()
            synchronize()
            seconds[side].append(time.perf_counter() - before)


def synchronize():
    """Wait until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cores_time(lodger=None):
    """Seconds of all cores since they started, (idle, busy, busy with this process and a child.Lodger); None where the
    system keeps none."""
    if not STAT.exists():
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().splitlines()[0].split()[1:9]]
    mine = os.times()
    theirs = lodger.seconds() if lodger else 0.0
    return ticks[3] + ticks[4], sum(ticks) - ticks[3] - ticks[4], mine.user + mine.system + theirs


def others_share(before, after):
    """The share of all cores' time between two `cores_time` that went to other processes (a host's others too)."""
    if before is None:
        return None
    idle, busy, mine = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - mine) / max(idle + busy, 1e-9)


def described(each):
    """A measurement in one line."""
    case = " ".join(f"{key} {value}" for key, value in each.case.items())
    number = f"{each.median / 1e6:,.1f} MB" if each.unit == "B" else f"{1000 * each.median:,.1f} ms"
    if each.of:
        number += f", {each.rate:,.3g} {each.of}/s"
    return f"{each.what} {case} {each.side}: {number} ({len(each.values)} rounds)"
