"""What an arm's search chose: from the points of a grid and what each measured, to the values of the arm's reported runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from arch.contracts import Metric
from arch.errors import SpecError
from experiments import plan as experiment
from sweeps import space, vertex
from sweeps.compare import harm
from sweeps.spec import TuneSpec
from sweeps.study import ArmPlan, overridden


@dataclass(frozen=True)
class Choice:
    """What a search chose for an arm. values: {dotted key: value} of each tuning seed; empty if nothing can be chosen.

    notes: sentences on values that were not chosen in the usual way.
    """

    values: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_grid(
    planned: ArmPlan,
    tune: TuneSpec,
    metric: Metric,
    points: Iterable[tuple[Mapping[str, Any], Mapping[int, float | None]]],
    label: str,
) -> Choice:
    """The Choice of every tuning seed by its own runs (`sweeps.vertex`).

    points: (values, {tuning seed: the metric; None of a run that failed}) of each trial. label: of the arm in the notes.
    """
    keys, axes = list(tune.space), [_axis(planned, tune, key) for key in tune.space]
    values, notes = [], []
    for seed, chosen in vertex.by_seed(axes, _curves(tune, metric, points, axes)).items():
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
    return Choice(values, list(dict.fromkeys(notes)))


def _axis(planned, tune, key):
    span, is_whole = tune.space[key], space.whole(planned.plans[0].spec, key)
    return vertex.Axis(space.grid(span, is_whole), span.log, is_whole)


def _curves(tune, metric, points, axes):
    """{tuning seed: {index on each axis: harm}} of all runs that finished, also those of trials with a failed one."""
    curves: dict[int, dict[tuple[int, ...], float]] = {seed: {} for seed in tune.tuning_seeds}
    for values, measured in points:
        if set(values) != set(tune.space):
            continue
        at = tuple(_nearest(axis.values, values[key]) for key, axis in zip(tune.space, axes, strict=True))
        for seed, value in measured.items():
            if value is not None:
                curves[seed][at] = harm(value, metric)
    return curves


def _nearest(values, value):
    """The index of the value on a grid, which storage may have rounded."""
    return min(range(len(values)), key=lambda i: abs(values[i] - value))


def _resolves(planned, values):
    try:
        experiment.resolve(overridden(planned.arm.document, values))
    except SpecError:
        return False
    return True


def _spelt(values):
    return ", ".join(f"{key} = {value:g}" for key, value in values.items())
