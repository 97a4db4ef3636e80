"""The best point of a grid, refined between its neighbours by a parabola along each key.

Close to its best, a loss is nearly a parabola in the logarithm of a learning rate. The grid point of the lowest loss may
lie half a step beside that best, by luck; the vertex of the parabola through it and its two neighbours lies much closer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

DIGITS = 3  # of a vertex. More would not change a loss, and losses that differ in the last bit would give other runs.


@dataclass(frozen=True)
class Axis:
    """The grid of one tuned key. values: ascending. log: whether they lie on a log scale. whole: whether they are whole.

    written: the ends of the range as the spec has it, where the grid grew beyond it (`sweeps.beyond`).
    """

    values: Sequence[float]
    log: bool = True
    whole: bool = False
    written: tuple[float, float] | None = None

    def is_written(self, i: int) -> bool:
        """Whether a value of the grid is of the range as the spec has it."""
        return self.written is None or self.written[0] <= self.values[i] <= self.written[1]


@dataclass(frozen=True)
class Optimum:
    """point: the index of the best grid point on each axis. values: the value to use of each axis.

    missing: axes on which a neighbour of the best point has no finite value, so that the grid point is used. lacks: whether such a
    neighbour is of the range as it is written; one that only a grid beyond its range has is no loss.
    """

    point: tuple[int, ...]
    values: tuple[float, ...]
    missing: tuple[int, ...] = ()
    lacks: bool = False


def optimum(axes: Sequence[Axis], harms: Mapping[tuple[int, ...], float]) -> Optimum | None:
    """The Optimum of a grid; None if no point has a finite value.

    harms: {index on each axis: what is to be small}; a point without a finite value has failed. Each axis has a parabola
    of its own, through the best point and its neighbours along that axis, while the other axes stay at the best point.
    The grid point is used where it is the first or the last of its axis, where a neighbour failed, where all three
    values are equal, and where the vertex would be rounded to a neighbour.
    """
    finite = {point: harm for point, harm in harms.items() if math.isfinite(harm)}
    if not finite:
        return None
    best = min(finite, key=lambda point: (finite[point], point))
    values, missing, lacks = [], [], False
    for k, axis in enumerate(axes):
        value, i = axis.values[best[k]], best[k]
        if 0 < i < len(axis.values) - 1:
            around = [finite.get((*best[:k], j, *best[k + 1 :])) for j in (i - 1, i, i + 1)]
            if None in around:
                missing.append(k)
                lacks |= any(harm is None and axis.is_written(j) for j, harm in zip((i - 1, i, i + 1), around, strict=True))
            else:
                value = _refined(axis, i, around)
        values.append(value)
    return Optimum(best, tuple(values), tuple(missing), lacks)


@dataclass(frozen=True)
class Chosen:
    """What a tuning seed chose. others: whether the mean of other tuning seeds chose in its place, as its own runs failed."""

    optimum: Optimum
    others: bool = False


def by_seed(axes: Sequence[Axis], curves: Mapping[int, Mapping[tuple[int, ...], float]]) -> dict[int, Chosen]:
    """What each tuning seed chose; empty if no run has a finite value. curves: {tuning seed: {point: harm}}.

    Where the best point of a seed has a neighbour that failed, or all its runs failed, the mean of those seeds chooses
    that have all they need. If no seed has, a seed takes its own best grid point.
    """
    alone = {seed: optimum(axes, curve) for seed, curve in curves.items()}
    complete = [seed for seed, best in alone.items() if best and not best.lacks]
    shared = optimum(axes, _mean([curves[seed] for seed in complete]))
    chosen = {}
    for seed, best in alone.items():
        if best and not best.lacks:
            chosen[seed] = Chosen(best)
        elif shared and (best is None or not shared.lacks):
            chosen[seed] = Chosen(shared, others=True)
        elif best:
            chosen[seed] = Chosen(best)
    first = next(iter(chosen.values()), None)
    return {seed: chosen.get(seed) or Chosen(first.optimum, others=True) for seed in alone} if first else {}


def _mean(curves):
    """{point: mean harm} of the points that all curves have."""
    everywhere = [point for point in (curves[0] if curves else ()) if all(point in curve for curve in curves)]
    return {point: sum(curve[point] for curve in curves) / len(curves) for point in everywhere}


def _refined(axis, i, harms):
    """The value of an axis at the vertex of the parabola through the points i - 1, i, i + 1, of which i is lowest."""
    scale, back = (math.log, math.exp) if axis.log else (float, float)
    ends = axis.values[i - 1], axis.values[i + 1]
    place = vertex([scale(value) for value in axis.values[i - 1 : i + 2]], harms)
    if place is None:
        return axis.values[i]
    value = round(back(place)) if axis.whole else float(f"{back(place):.{DIGITS}g}")
    value = min(max(value, ends[0]), ends[1])
    return axis.values[i] if axis.whole and value in ends else value  # a neighbour was tried, and is worse


def vertex(places: Sequence[float], harms: Sequence[float]) -> float | None:
    """The lowest place of the parabola through three points, between the outer two; None if it has no lowest place.

    places: ascending.
    """
    slopes = [(b - a) / (y - x) for (x, y), (a, b) in zip(pairwise(places), pairwise(harms), strict=True)]
    bend = slopes[1] - slopes[0]
    if not (bend > 0 and math.isfinite(bend)):
        return None
    # The slope of the parabola grows evenly; halfway between two points it is the slope between them.
    middle = (places[0] + places[1]) / 2
    lowest = middle - slopes[0] * (places[2] - places[0]) / 2 / bend
    return min(max(lowest, places[0]), places[2])
