"""Measure sides in turns, and save every measurement at once, so that an interrupted benchmark keeps its results."""

import itertools
import time
from contextlib import contextmanager

import torch

from arch import units
from experiments.bench.record import Measurement
from experiments.device import release_memory
from experiments.record import Failure
from experiments.turns import cores_time, others_share

FEWEST_ROUNDS = 3


class Journal:
    """A growing BenchRecord, saved after every measurement. `tell`: called with one line of text per measurement."""

    def __init__(self, record, folder, tell):
        self.record, self.folder, self.tell = record, folder, tell

    def change(self, **update):
        """Change fields of the record and save it."""
        self.record = self.record.model_copy(update=update)
        self.record.write(self.folder)

    def add(self, *measurements):
        """Add measurements to the record."""
        self.change(measurements=[*self.record.measurements, *measurements])
        for each in measurements:
            self.tell(described(each))

    def note(self, text):
        """Add a remark to the record, such as what was not measured and why; once."""
        if text in self.record.notes:
            return
        self.change(notes=[*self.record.notes, text])
        self.tell(text)

    @contextmanager
    def part(self, name):
        """Context manager: an error inside is recorded as a failure of `name`, and the benchmark continues."""
        try:
            yield
        except Exception as error:  # e.g. a peer that does not fit in memory; the other parts must still run
            failure = Failure(step=-1, error=type(error).__name__, message=f"{name}: {error}"[:2000])
            self.change(failures=[*self.record.failures, failure])
            self.tell(f"{name}: {type(error).__name__}: {error}"[:300])
        finally:
            release_memory()

    def time(self, what, sides, case, works, of, facts=None, least=0.0, lodgers=()):
        """Time the functions `sides` {side: function} in turns and add one Measurement per side.

        works: the work of one call in units of `of`; both may also be {side: value}. facts: {side: its facts}.
        least: the fewest seconds to measure, even if that takes more rounds than were asked for.
        lodgers: each child.Lodger that runs one of the sides; their CPU time does not count as other programs' time.
        If this is interrupted or a function fails, the rounds timed so far are kept.
        """
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        before = cores_time(lodgers)
        try:
            in_turns(sides, seconds, self.record.asked["repeats"], self.record.asked["seconds"], least)
        finally:
            others = others_share(before, cores_time(lodgers))
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
    """Call every function of `sides` once to warm up, then in turns, and append each call's time to `seconds[side]`.

    There are `repeats` rounds, and more until `least` seconds have passed. After `limit` seconds no new round starts,
    except that there are at least FEWEST_ROUNDS.
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
    """Wait until the GPU, if there is one, has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def described(each):
    """A measurement as one line of text."""
    case = " ".join(f"{key} {value}" for key, value in each.case.items())
    number = units.size(each.median) if each.unit == "B" else units.duration(each.median)
    if each.of:
        number += f", {units.scaled(each.rate, each.of)}/s"
    return f"{each.what} {case} {each.side}: {number} ({len(each.values)} rounds)"
