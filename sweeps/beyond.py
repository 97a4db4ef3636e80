"""A grid that grows: an arm whose best point lies at an end of a range tries the next point beyond that end.

A range says how many there may be (`Range.beyond`). The rule is the same for every arm, so each is compared at its own best
value and not at the end of a range that suited others. What an arm tries next depends on its trials alone: every process that
drives a search finds the same points, at every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arch import document
from arch.contracts import Metric
from sweeps import choice, space, vertex
from sweeps.spec import TuneSpec
from sweeps.study import ArmPlan

# (values, {tuning seed: the metric; None of a run that failed}, whether nothing of it is run any more) of each trial.
Trials = Sequence[tuple[Mapping[str, Any], Mapping[int, float | None], bool]]


def searched(planned: ArmPlan, tune: TuneSpec, metric: Metric, trials: Trials) -> TuneSpec:
    """The search as far as it goes by now: with the points beyond its ranges that were tried, or are to be tried next.

    It grows when every point so far has ended, by one point at each end where a tuning seed has its best: better than the point
    beside it, which a metric that is the same everywhere is not. It does not grow where the spec refuses the value.
    """
    more = dict.fromkeys(tune.space, (0, 0))
    while True:
        now = space.widened(tune, more, planned.plans[0].spec)
        if all(more[key] == (span.beyond, span.beyond) for key, span in tune.space.items()) or left(planned, now, trials):
            return now
        grown = {key: _grown(planned, tune, key, more[key], ends) for key, ends in _ends(planned, now, metric, trials).items()}
        if grown == more:
            return now
        more = grown


def left(planned: ArmPlan, tune: TuneSpec, trials: Trials) -> list[dict[str, Any]]:
    """The points of a search, {dotted key: value}, that have not ended."""
    axes = choice.axes_of(planned, tune)
    ended = {choice.place(axes, tune, values) for values, _, is_over in trials if is_over}
    return [values for values in space.points(tune, planned.plans[0].spec) if choice.place(axes, tune, values) not in ended]


def _ends(planned, tune, metric, trials):
    """{dotted key: (whether a tuning seed has its best at the low end, whether one has at the high end)}."""
    axes = choice.axes_of(planned, tune)
    curves = choice.curves_of(axes, tune, metric, [(values, measured) for values, measured, _ in trials])
    found = {}
    for k, (key, axis) in enumerate(zip(tune.space, axes, strict=True)):
        ends = (0, 1), (len(axis.values) - 1, -1)
        found[key] = tuple(any(_is_best(axes, curve, k, *end) for curve in curves.values()) for end in ends)
    return found


def _is_best(axes, curve, k, end, inwards):
    """Whether the best point of a seed lies at an end of axis k, and is better than the point beside it."""
    best = vertex.optimum(axes, curve)
    if best is None or best.point[k] != end:
        return False
    beside = curve.get((*best.point[:k], end + inwards, *best.point[k + 1 :]))
    return beside is None or curve[best.point] < beside


def _grown(planned, tune, key, more, ends):
    """How many points below and above a range there are now."""
    span, is_whole = tune.space[key], space.whole(planned.plans[0].spec, key)
    below, above = more
    known = space.grid(span.widened(below, above), is_whole)
    if ends[0]:
        below = _next(planned, key, below, span.beyond, lambda n: space.grid(span.widened(n, above), is_whole)[0], known[0])
    if ends[1]:
        above = _next(planned, key, above, span.beyond, lambda n: space.grid(span.widened(below, n), is_whole)[-1], known[-1])
    return below, above


def _next(planned, key, now, most, end, known):
    """The next number of points beyond an end, which is now `known`; the present one if there is none, or it cannot be built.

    end: number of points beyond -> the end. Neighbours of whole numbers may be rounded to the same one.
    """
    further = next((n for n in range(now + 1, most + 1) if end(n) != known), now)
    refused = further != now and space.refusal(planned.arm, key, end(further), document.node(None))
    return now if refused else further
