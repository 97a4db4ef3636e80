"""What an arm's search chose: from the points of a grid and what each measured, to the values of the arm's reported runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arch.contracts import Metric
from arch.errors import SpecError
from experiments import plan as experiment
from sweeps import space, vertex
from sweeps.compare import harm
from sweeps.spec import TuneSpec
from sweeps.study import ArmPlan, overridden

# (values, {tuning seed: the metric; None of a run that failed}) of each trial.
Points = Iterable[tuple[Mapping[str, Any], Mapping[int, float | None]]]
# {index on each axis: what is to be small} of each tuning seed.
Curves = dict[int, dict[tuple[int, ...], float]]
# Storage may have rounded a value by so much.
SAME = 1e-6


@dataclass(frozen=True)
class Choice:
    """What a search chose for an arm. values: {dotted key: value} of each tuning seed; empty if nothing can be chosen.

    notes: sentences on values that were not chosen in the usual way. searched: the search as far as it went for this arm
    (`sweeps.beyond`); None: as its spec says.
    """

    values: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    searched: TuneSpec | None = None


def of_grid(
    planned: ArmPlan,
    tune: TuneSpec,
    metric: Metric,
    points: Points,
    label: str,
) -> Choice:
    """The Choice of every tuning seed by its own runs (`sweeps.vertex`).

    tune: the search as far as it went. label: of the arm in the notes.
    """
    keys, axes = list(tune.space), axes_of(planned, tune)
    values, notes = [], []
    for seed, chosen in vertex.by_seed(axes, curves_of(axes, tune, metric, points)).items():
        optimum = chosen.optimum
        at = {key: axis.values[i] for key, axis, i in zip(keys, axes, optimum.point, strict=True)}
        best = dict(zip(keys, optimum.values, strict=True))
        if chosen.others:
            why = f"runs of tuning seed {seed} failed, so the mean of the other tuning seeds chose for it"
            notes.append(f"arm {label!r}: {why}")
        for key in [keys[k] for k in optimum.missing]:
            near = f"next to the best {key} = {at[key]:g}, a run of tuning seed {seed} failed"
            notes.append(f"arm {label!r}: {near}, so this grid point is used as it is")
        if best != at and not _resolves(planned, best):
            notes.append(f"arm {label!r}: {_spelt(best)} cannot be built, so the best grid point {_spelt(at)} is used")
            best = at
        values.append(best)
    return Choice(values, list(dict.fromkeys(notes)), tune)


def axes_of(planned: ArmPlan, tune: TuneSpec) -> list[vertex.Axis]:
    """The axis of each tuned key."""
    found = []
    for key, span in tune.space.items():
        is_whole = space.whole(planned.plans[0].spec, key)
        found.append(vertex.Axis(space.grid(span, is_whole), span.log, is_whole, space.written(span, is_whole)))
    return found


def curves_of(axes: Sequence[vertex.Axis], tune: TuneSpec, metric: Metric, points: Points) -> Curves:
    """{tuning seed: {index on each axis: harm}} of all runs that finished, also those of trials with a failed one."""
    curves: Curves = {seed: {} for seed in tune.tuning_seeds}
    for values, measured in points:
        at = place(axes, tune, values)
        for seed, value in measured.items():
            if at is not None and value is not None:
                curves[seed][at] = harm(value, metric)
    return curves


def place(axes: Sequence[vertex.Axis], tune: TuneSpec, values: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The index of a trial's values on each axis; None of a trial without values, and of one that lies beyond an axis."""
    if set(values) != set(tune.space):
        return None
    found = []
    for key, axis in zip(tune.space, axes, strict=True):
        i = min(range(len(axis.values)), key=lambda i: abs(axis.values[i] - values[key]))
        step = abs(axis.values[-1] - axis.values[0]) / max(1, len(axis.values) - 1)
        if not math.isclose(axis.values[i], values[key], rel_tol=SAME, abs_tol=0.0 if axis.log else SAME * step):
            return None
        found.append(i)
    return tuple(found)


def _resolves(planned, values):
    try:
        experiment.resolve(overridden(planned.arm.document, values))
    except SpecError:
        return False
    return True


def _spelt(values):
    return ", ".join(f"{key} = {value:g}" for key, value in values.items())
