"""A study's search as data: its trials over seeds, the dimensions of its space, and the front. Made from StudyRecord alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from sweeps.record import StudyRecord, TrialRecord


@dataclass(frozen=True)
class Dimension:
    """One dimension of the space. low, high: of a range of numbers; names: of choices, as records spell them; log: the scale.

    mixture: the name of what it is a part of, whose weights are together 1; empty for all others.

    under: {name of a dimension: its choice} that bring it; empty for one that every trial has.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    names: tuple[str, ...] = ()
    under: Mapping[str, str] = field(default_factory=dict)
    mixture: str = ""

    @property
    def is_range(self) -> bool:
        """Whether it holds numbers of a range."""
        return self.low is not None

    def is_of(self, trial: "Trial") -> bool:
        """Whether a trial took the choices that bring this dimension."""
        return all(trial.values.get(name) == choice for name, choice in self.under.items())

    @property
    def short(self) -> str:
        """The last parts of its dotted key, enough to recognize it: `local.mixer.window`."""
        parts = self.name.removeprefix("model.").removeprefix("blocks.").split(".")
        if self.mixture and parts[-1] == "weight":
            return ".".join(parts[-2:])
        return ".".join(parts[-3:])


@dataclass(frozen=True)
class Trial:
    """One trial. objectives: {metric: mean over its seeds}, of those that it has. runs: {seed: folder}, see TrialRecord."""

    number: int
    values: Mapping[str, float | str]
    objectives: Mapping[str, float]
    state: str
    why: str
    constraints: Mapping[str, float]
    runs: Mapping[int, str]


@dataclass(frozen=True)
class Searched:
    """A study's search. objectives: {metric: `minimise` or `maximise`}. front: numbers of the trials that no other dominates.

    winners: {label of the arm: number of its trial}. widened: sentences on ranges that grew.
    """

    objectives: Mapping[str, str]
    dimensions: tuple[Dimension, ...]
    constraints: Mapping[str, Mapping[str, float]]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    winners: Mapping[str, int]
    planned: int | None
    seeds: int
    sampler: str
    pruner: str
    study: str
    widened: tuple[str, ...] = ()

    def of(self, state: str) -> list[Trial]:
        """The trials in a state: finished, pruned, infeasible, failed, running."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def counts(self) -> dict[str, int]:
        """{state: trials}, the finished ones first."""
        states = [trial.state for trial in self.trials]
        order = ("finished", "pruned", "infeasible", "failed", "running")
        return {state: states.count(state) for state in order if state in states}

    def harm(self, metric: str) -> float:
        """1 for a metric that is minimised, -1 for one that is maximised."""
        return 1.0 if self.objectives[metric] == "minimise" else -1.0


def searched(record: StudyRecord) -> Searched | None:
    """The search of a StudyRecord; None of a study without one."""
    found: Mapping[str, Any] = record.search
    if not found:
        return None
    dimensions, widened = tuple(_dimensions(found.get("space", {}))), found.get("widened") or {}
    return Searched(
        objectives=found.get("objectives", {}),
        dimensions=tuple(_grown(each, widened) for each in dimensions),
        constraints=found.get("constraints", {}),
        trials=tuple(_trials(record.trials)),
        front=tuple(found.get("front", ())),
        winners=found.get("winners", {}),
        planned=found.get("trials"),
        seeds=found.get("seeds", 1),
        sampler=_named(found.get("sampler")),
        pruner=_named(found.get("pruner")),
        study=found.get("study", ""),
        widened=tuple(_widened(dimensions, widened)),
    )


def _named(component):
    return component.get("type", "") if isinstance(component, Mapping) else component or ""


def _dimensions(space: Mapping[str, Any], under: Mapping[str, str] = {}) -> Iterator[Dimension]:
    for name, each in space.items():
        if "simplex" in each:
            yield from (Dimension(key, 0.0, 1.0, under=under, mixture=name) for key in each["simplex"])
            continue
        choices = each.get("choices")
        if choices is None:
            log = each.get("log")
            yield Dimension(name, each["low"], each["high"], each.get("step") is None if log is None else log, under=under)
            continue
        yield Dimension(name, names=tuple(_spelt(choice) for choice in choices), under=under)
        if isinstance(choices, Mapping):
            for choice, brings in choices.items():
                yield from _dimensions(brings.get("space", {}), {**under, name: choice})


def _spelt(choice: Any) -> str:
    """A choice as text, numbers as `value_text` spells those of a trial."""
    if isinstance(choice, (int, float)) and not isinstance(choice, bool):
        return value_text(float(choice))
    return choice if isinstance(choice, str) else {True: "true", False: "false", None: "null"}[choice]


def value_text(value: float | str | None) -> str:
    """The value of a dimension: `0.0112`, `128`, the name of a choice; a dash for a dimension that the trial does not have."""
    if value is None:
        return "–"
    return (
        f"{value:.4g}"
        if isinstance(value, float) and not value.is_integer()
        else str(value if isinstance(value, str) else int(value))
    )


def _trials(records: list[TrialRecord]) -> Iterator[Trial]:
    by_number: dict[int, list[TrialRecord]] = {}
    for record in records:
        if not record.arm and record.number is not None:
            by_number.setdefault(record.number, []).append(record)
    for number, runs in sorted(by_number.items()):
        names = dict.fromkeys(name for run in runs for name in run.objectives)
        means = {name: float(np.mean([run.objectives[name] for run in runs if name in run.objectives])) for name in names}
        first = runs[0]
        why = next((run.why for run in runs if run.why), "")
        folders = {run.seed: run.run for run in runs if run.seed is not None and run.run}
        yield Trial(number, first.values, means, first.state, why, first.constraints, folders)


def _widened(dimensions: tuple[Dimension, ...], widened: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on the ranges that grew; the dimensions are those of the spec."""
    for each in dimensions:
        if each.is_range and each.name in widened:
            before, after = (f"{low:g} to {high:g}" for low, high in ((each.low, each.high), widened[each.name]))
            yield f"The range of {each.name} grew from {before} to {after}, since the best lay at its end"


def _grown(each: Dimension, widened: Mapping[str, Any]) -> Dimension:
    """A dimension with its range as it is now."""
    if not each.is_range or each.name not in widened:
        return each
    low, high = widened[each.name]
    return replace(each, low=low, high=high)


def frame(found: Searched) -> pd.DataFrame:
    """One row per trial: number, state, front, winner, a column per dimension, objective and constraint, why, and its runs.

    A value that a trial does not have is missing.
    """
    winners = {number: label for label, number in found.winners.items()}
    rows = [
        {"trial": trial.number, "state": trial.state, "front": trial.number in found.front, "winner": winners.get(trial.number, "")}
        | {each.name: trial.values.get(each.name) for each in found.dimensions}
        | {name: trial.objectives.get(name, math.nan) for name in found.objectives}
        | {f"{name} above its limit": trial.constraints.get(name, math.nan) for name in found.constraints}
        | {"why": trial.why, "runs": " ".join(trial.runs.values())}
        for trial in found.trials
    ]
    return pd.DataFrame(rows)


def best_so_far(found: Searched) -> list[tuple[int, float]]:
    """[(trial, the best value up to it)] of the first objective, at each feasible trial that improves it."""
    name, best, steps = next(iter(found.objectives)), math.inf, []
    for trial in found.of("finished"):
        value = trial.objectives.get(name)
        if value is not None and found.harm(name) * value < best:
            best = found.harm(name) * value
            steps.append((trial.number, value))
    return steps
