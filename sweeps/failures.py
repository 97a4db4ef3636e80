"""Why runs of an arm failed, in one clause."""

import re

from arch.words import listed, times
from experiments.record import Failure


def failed_in(failures, planned):
    """`failed in 2 of 5 seeds (WHY)` from {seed: Failure}, with the reasons grouped; empty if there are none."""
    if not failures:
        return ""
    groups: dict[str, list[Failure]] = {}
    for failure in failures.values():
        groups.setdefault(_kind(failure), []).append(failure)
    several = len(groups) > 1
    whys = [f"{len(group)}: {_why(group)}" if several else _why(group) for group in groups.values()]
    return f"failed in {len(failures)} of {times(planned, 'seed')} ({'; '.join(whys)})"


def _kind(failure):
    """What two failures must have in common to be told as one: all but the step and the seed."""
    if failure.what:
        return f"{failure.what} {failure.where} {failure.step < 0} {failure.by_machine}"
    return f"{failure.error} {failure.step < 0} {re.sub(r' seed [0-9]+', '', failure.message)}"


def _why(group):
    """The reason of failures of one kind: `loss not finite at steps 3 and 7, first in blocks.0.mixer`."""
    first, steps = group[0], sorted({failure.step for failure in group})
    when = "before the first step" if steps == [-1] else _at(steps)
    if first.what:
        said = f"{first.what} not finite {when}" + (f", first in {first.where}" if first.where else "")
        _, _, note = first.message.partition("; ")
        return f"{said}; {note}" if note and first.by_machine else said  # of the model's own faults, tables of runs say more
    message = re.sub(r" seed [0-9]+", "", first.message) if len(group) > 1 else first.message
    if first.error == "NeedFailed":
        return message
    return f"{first.error} {when}: {' '.join(message.split())}"


def _at(steps):
    shown = listed(map(str, steps))
    return f"at step{'s' if len(steps) > 1 else ''} {shown if len(steps) <= 3 else f'{steps[0]} to {steps[-1]}'}"
