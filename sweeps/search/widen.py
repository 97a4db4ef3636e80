"""A range of numbers that grows while a search goes on, because its best lies at an end.

After each quarter of the trials but the last, a range whose best trial lies at an end (within 5 % of its length) grows beyond
that end by the factor `widen`: on a log scale the end is multiplied or divided by it, else the length is. An end that the
experiment refuses to pass stays. What grew is kept in storage, so it is the same for every process and after every start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arch.document import Node
from arch.errors import SpecError
from experiments import plan as experiment
from sweeps.search import space as spaces
from sweeps.search.space import Axis
from sweeps.search.spec import Numbers
from sweeps.space import EDGE

WIDENED = "widened"
QUARTERS = 4


def quarter(told: int, limit: int) -> int:
    """How many quarters of the trials are told; the last one does not count, as nothing would follow."""
    return min(QUARTERS - 1, QUARTERS * told // limit)


def ranges(axes: tuple[Axis, ...], kept: Mapping[str, Any]) -> dict[str, Numbers]:
    """{dimension: its present range} of those that grew. kept: {quarter: {dimension: [low, high]}}, from storage."""
    grown = {name: ends for at in sorted(kept, key=int) for name, ends in kept[at].items()}
    by_name = {axis.name: axis.numbers for axis, _ in spaces.every(axes) if axis.numbers is not None}
    return {name: by_name[name].model_copy(update={"low": low, "high": high}) for name, (low, high) in grown.items()}


def end_of(span: Numbers, value: float) -> str | None:
    """`low` or `high` if a value lies at that end of a range, else None."""
    scale = math.log if span.is_log else float
    place = (scale(value) - scale(span.low)) / (scale(span.high) - scale(span.low))
    return "low" if place <= EDGE else "high" if place >= 1 - EDGE else None


def grown(
    root: Node, axes: tuple[Axis, ...], best: Mapping[str, Any], factor: float, present: Mapping[str, Numbers]
) -> dict[str, list[float]]:
    """{dimension: [low, high]} of the ranges that grow, since the values `best` lie at their ends. root: the base experiment."""
    wider = {}
    for axis, given in spaces.every(axes):
        span = present.get(axis.name, axis.numbers)
        if span is None or not axis.is_range or axis.name not in best or any(best.get(above.name) != name for above, name in given):
            continue
        end = end_of(span, float(best[axis.name]))
        value = None if end is None else _beyond(axis, span, end, factor)
        if value is not None and _builds(root, axes, {**best, axis.name: round(value) if axis.whole else value}):
            wider[axis.name] = [value, span.high] if end == "low" else [span.low, value]
    return wider


def _beyond(axis, span, end, factor):
    """The new end of a range; None if it would not move."""
    old, outwards = getattr(span, end), -1 if end == "low" else 1
    if span.is_log:
        value = old * factor**outwards
    else:
        more = (factor - 1) * (span.high - span.low)
        value = old + outwards * (span.step * max(1, round(more / span.step)) if span.step else more)
    if axis.whole:
        value = float(round(value))
    return None if value == old or (axis.whole and span.is_log and value < 1) else value


def _builds(root, axes, values):
    try:
        experiment.resolve(spaces.overridden(root, axes, values))
    except SpecError:
        return False
    return True
