"""The space of a search, made for one experiment: which values a trial may take, and what they override.

A dimension below a named choice exists only where that choice is taken. Storage keeps numbers, values and names of
choices; what a name stands for is in the spec. A mixture of K parts is K - 1 dimensions there, its coordinates
(`sweeps.search.simplex`); records have the weights of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arch import document
from arch.document import Node
from arch.errors import SpecError
from arch.spec import spelt
from experiments import plan as experiment
from sweeps.search import simplex
from sweeps.search.spec import Choices, Numbers, SearchSpec, Simplex, Space
from sweeps.space import whole

Value = str | bool | int | float | None


@dataclass(frozen=True)
class Branch:
    """A named choice. overrides: {dotted key: plain value}. below: the dimensions that it brings."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    below: tuple[Axis, ...] = ()


# A coordinate of a mixture.
UNIT = Numbers(low=0.0, high=1.0, log=False)


@dataclass(frozen=True)
class Mixture:
    """Weights that together are 1. name: of the dimension. keys: what they override. concentration: see `simplex`."""

    name: str
    keys: tuple[str, ...]
    concentration: float

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names of its coordinates."""
        return tuple(f"{self.name}[{i + 1}]" for i in range(len(self.keys) - 1))

    def weights(self, values: Mapping[str, Value]) -> dict[str, float]:
        """{key: weight} at these values of the coordinates; {} unless all of them are there."""
        found = [values[name] for name in self.coordinates if name in values]
        if len(found) < len(self.coordinates):
            return {}
        return dict(zip(self.keys, simplex.weights([float(each) for each in found], self.concentration), strict=True))  # type: ignore[arg-type]

    def at(self, weights: Sequence[float]) -> dict[str, float]:
        """{coordinate: value} of some weights, of which only the shares count."""
        shares = [weight / sum(weights) for weight in weights]
        return dict(zip(self.coordinates, simplex.coordinates(shares, self.concentration), strict=True))

    def corners(self) -> Iterator[dict[str, float]]:
        """Yields {coordinate: value} of the mixtures that are one part alone."""
        for i in range(len(self.keys)):
            yield self.at([float(i == j) for j in range(len(self.keys))])


@dataclass(frozen=True)
class Axis:
    """One dimension. path: its place in the study. numbers: its range, or None. whole: whether it holds whole numbers.

    values: what may be chosen of a dimension without a range. branches: {name: Branch} of named choices. mixture: what it is a
    coordinate of.
    """

    name: str
    path: tuple[str, ...]
    numbers: Numbers | None = None
    whole: bool = False
    values: tuple[Value, ...] = ()
    branches: Mapping[str, Branch] = field(default_factory=dict)
    mixture: Mixture | None = None

    @property
    def is_range(self) -> bool:
        """Whether it has a range of numbers that a spec states: beyond its ends there may be more."""
        return self.numbers is not None and self.mixture is None

    @property
    def begins_mixture(self) -> bool:
        """Whether it is the first coordinate of a mixture, which stands for the whole of it."""
        return self.mixture is not None and self.name == self.mixture.coordinates[0]

    def suggested(self, trial: Any, numbers: Numbers | None = None) -> Value:
        """A value of this dimension for an Optuna trial. numbers: another range than its own."""
        span = numbers or self.numbers
        if span is None:
            return trial.suggest_categorical(self.name, list(self.values))
        if self.whole:
            low, high, step = round(span.low), round(span.high), round(span.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=span.is_log)
        return trial.suggest_float(self.name, span.low, span.high, step=span.step, log=span.is_log)

    def grid(self) -> list[Value] | None:
        """All values that a grid tries, in order; None for a range of real numbers without `step` or `points`."""
        span = self.numbers
        if span is None:
            return list(self.values)
        if span.points:
            return _spread(span, self.whole)
        step = span.step or (1.0 if self.whole else None)
        if step is None:
            return None
        values = [span.low + i * step for i in range(round((span.high - span.low) / step) + 1)]
        return [round(value) if self.whole else value for value in values]

    def ends(self) -> list[Value]:
        """The values that stand for all others in a check: both ends of a range, or every choice."""
        if self.numbers is None:
            return list(self.values)
        ends = (self.numbers.low, self.numbers.high)
        return [round(end) if self.whole else end for end in ends]


def _spread(span, is_whole):
    parts = [i / (span.points - 1) for i in range(span.points)]
    if span.is_log:
        values = [math.exp(math.log(span.low) + part * (math.log(span.high) - math.log(span.low))) for part in parts]
    else:
        values = [span.low + part * (span.high - span.low) for part in parts]
    values = [min(max(value, span.low), span.high) for value in values]
    return sorted({round(value) for value in values}) if is_whole else values


def axes(space: Space, root: Node, study: Node, path: tuple[str, ...] = ("search", "space")) -> tuple[Axis, ...]:
    """The dimensions of a space over the experiment document `root`.

    study: for the line of an error. Raises SpecError where a choice that brings further dimensions does not resolve.
    """
    found: list[Axis] = []
    for name, dimension in space.items():
        place = (*path, name)
        if isinstance(dimension, Simplex):
            found += _coordinates(name, dimension, place)
        else:
            found.append(_axis(name, dimension, root, study, place))
    return tuple(found)


def _coordinates(name, dimension, path):
    mixture = Mixture(name, dimension.simplex, dimension.concentration)
    return tuple(Axis(each, path, UNIT, mixture=mixture) for each in mixture.coordinates)


def _axis(name, dimension, root, study, path):
    if isinstance(dimension, Numbers):
        return Axis(name, path, dimension, _holds_whole(root, name, dimension))
    assert isinstance(dimension, Choices)
    if not dimension.named:
        return Axis(name, path, values=tuple(dimension.choices))
    branches = {}
    for label, choice in dimension.named.items():
        here = (*path, "choices", label)
        taken = document.overridden(root, document.node(choice.set)) if choice.space else root
        try:
            branches[label] = Branch(choice.set, axes(choice.space, taken, study, (*here, "space")))
        except SpecError as error:
            if error.path[:2] == ("search", "space"):
                raise
            raise misfit(study, here, f"{name} = {label}", error) from None
    return Axis(name, path, values=tuple(branches), branches=branches)


def misfit(study: Node, path: tuple, what: str, error: SpecError) -> SpecError:
    """The error that a value does not fit the experiment, at its line of the study."""
    dotted = ".".join(map(str, error.path))
    return study.error(f"{what} does not fit: {dotted}: {error.reason}" if dotted else f"{what} does not fit: {error.reason}", path)


def _holds_whole(root, key, span):
    """Whether a key holds whole numbers: it has one, or it has no number yet (a default of null) and takes nothing else."""
    if whole(experiment.resolve(root), key):
        return True
    return not _resolves(root, key, float(span.low)) and span.low.is_integer() and _resolves(root, key, round(span.low))


def _resolves(root, key, value):
    try:
        experiment.resolve(document.override(root, key, document.node(value)))
    except SpecError:
        return False
    return True


def every(dimensions: tuple[Axis, ...], given: tuple[tuple[Axis, Value], ...] = ()) -> Iterator[tuple[Axis, tuple]]:
    """Yields every dimension with the choices ((Axis, name), ...) that bring it."""
    for axis in dimensions:
        yield axis, given
        for name, branch in axis.branches.items():
            yield from every(branch.below, (*given, (axis, name)))


def is_conditional(dimensions: tuple[Axis, ...]) -> bool:
    """Whether some dimension exists only where a choice is taken."""
    return any(given for _, given in every(dimensions))


def suggested(dimensions: tuple[Axis, ...], trial: Any, ranges: Mapping[str, Numbers] | None = None) -> dict[str, Value]:
    """{name: value} of the dimensions that exist for an Optuna trial. ranges: {name: range} in place of those of the spec."""
    values: dict[str, Value] = {}
    _walk(dimensions, lambda axis: axis.suggested(trial, (ranges or {}).get(axis.name)), values)
    return values


def _walk(dimensions, choose: Callable[[Axis], Value], values):
    for axis in dimensions:
        values[axis.name] = choose(axis)
        if axis.branches:
            _walk(axis.branches[str(values[axis.name])].below, choose, values)


def complete(dimensions: tuple[Axis, ...], values: Mapping[str, Value]) -> bool:
    """Whether values has every dimension that exists for it: a process may be killed while a trial gets its values."""
    try:
        _walk(dimensions, lambda axis: values[axis.name], {})
    except KeyError:
        return False
    return True


def size(dimensions: tuple[Axis, ...]) -> int | None:
    """The number of points; None if a dimension is not countable (`Axis.grid`)."""
    product = 1
    for axis in dimensions:
        grid = axis.grid()
        if grid is None:
            return None
        below = [size(axis.branches[str(value)].below) if axis.branches else 1 for value in grid]
        if None in below:
            return None
        product *= sum(each or 0 for each in below)
    return product


def limit(search: SearchSpec, dimensions: tuple[Axis, ...]) -> int | None:
    """The number of trials of a search; None if nothing limits it."""
    every = size(dimensions) if search.sampler["type"] in ("grid", "brute_force") else None
    return min((number for number in (search.trials, every) if number is not None), default=None)


def overridden(root: Node, dimensions: tuple[Axis, ...], values: Mapping[str, Value], here: Node | None = None) -> Node:
    """The experiment document with the values of a trial, in the order of the space. here: whose file and line errors name."""
    place = here or Node(None)
    for axis in dimensions:
        if axis.name not in values:
            continue
        value = values[axis.name]
        if axis.mixture is not None:
            if axis.begins_mixture:
                weights = axis.mixture.weights(values)
                root = document.overridden(root, document.node(weights, place.file, place.line))
            continue
        if not axis.branches:
            root = document.override(root, axis.name, document.node(value, place.file, place.line))
            continue
        branch = axis.branches[str(value)]
        root = document.overridden(root, document.node(branch.overrides, place.file, place.line))
        root = overridden(root, branch.below, values, here)
    return root


def recorded(dimensions: tuple[Axis, ...], values: Mapping[str, Value]) -> dict[str, float | str]:
    """Values as a record holds them: numbers, or text; of a mixture the weights of its parts, in place of its coordinates."""
    coordinates = {axis.name for axis, _ in every(dimensions) if axis.mixture is not None}
    others = {name: value for name, value in values.items() if name not in coordinates}
    plain = {name: _number(value) if _is_number(value) else spelt_choice(value) for name, value in others.items()}
    return plain | mixed(dimensions, values)


def mixed(dimensions: tuple[Axis, ...], values: Mapping[str, Value]) -> dict[str, float]:
    """{key: weight} of all mixtures at these values."""
    every_one = [axis.mixture.weights(values) for axis, _ in every(dimensions) if axis.mixture and axis.begins_mixture]
    return {key: weight for weights in every_one for key, weight in weights.items()}


def given_first(space: Space, dimensions: tuple[Axis, ...]) -> list[dict[str, float]]:
    """[{coordinate: value}] of the trials that the mixtures of a space name (`first`); a mixture below a choice names none."""
    trials: list[dict[str, float]] = []
    for axis in dimensions:
        spec = space.get(axis.mixture.name) if axis.mixture and axis.begins_mixture else None
        for i, weights in enumerate(spec.first if isinstance(spec, Simplex) else ()):
            trials += [{}] if i == len(trials) else []
            trials[i] |= axis.mixture.at(weights)  # type: ignore[union-attr]
    return trials


def spelt_choice(value: Value) -> str:
    """A value that is no number as text; the name of a choice as it is."""
    return value if isinstance(value, str) else spelt(value)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value):
    return float(value)
