"""From a search to arms: its winners, as arms of the study, and what the study's record says of the search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from arch.words import listed, times
from experiments import plan as experiment
from sweeps.arms import differences
from sweeps.search import space as spaces
from sweeps.search import widen
from sweeps.search.queue import Search
from sweeps.search.winners import chosen, front
from sweeps.study import ArmPlan, StudyPlan, arm_cost


@dataclass(frozen=True)
class Found:
    """What a search found. front: numbers of the trials that no other dominates. winners: {label of the arm: trial}.

    notes: sentences for the report.
    """

    front: tuple[int, ...]
    winners: dict[str, int]
    notes: tuple[str, ...] = ()


def found(search: Search) -> Found:
    """What is known of a search so far."""
    candidates, labels = search.candidates(), search.spec.winners
    best = chosen(candidates, len(labels))
    winners = {label: each.number for label, each in zip(labels, best, strict=False)}
    absent = labels[len(best) :]
    notes = []
    if absent:
        there = times(len(best), "feasible trial") if best else "no feasible trial"
        notes.append(
            f"the search has {there} that finished and {'differ' if len(best) > 1 else 'differs'} from the others: "
            f"{listed(absent)} {'has' if len(absent) == 1 else 'have'} no runs"
        )
    notes += [_grew(search, name, span) for name, span in search.ranges.items()]
    if len(search.spec.objectives) == 1:
        notes += [each for label, number in winners.items() for each in _edges(search, label, search.values(number))]
    return Found(tuple(each.number for each in front(candidates)), winners, tuple(notes))


def _grew(search, name, span):
    written = next(axis.numbers for axis, _ in spaces.every(search.axes) if axis.name == name and axis.numbers is not None)
    return f"the range of {name} grew from {written.low:g} to {written.high:g} to {span.low:g} to {span.high:g}"


def _edges(search, label, values):
    """A sentence for each end of a range at which a winner lies."""
    for axis, _ in spaces.every(search.axes):
        span = search.ranges.get(axis.name, axis.numbers)
        if span is None or not axis.is_range or axis.name not in values:
            continue
        end = widen.end_of(span, values[axis.name])
        if end:
            word, side = ("lowest", "below") if end == "low" else ("highest", "above")
            yield (
                f"{label}: {axis.name} = {values[axis.name]:g} is at the {word} end of {span.low:g} to {span.high:g}; "
                f"the true best may lie {side}"
            )


def facts(search: Search, so_far: Found) -> dict[str, Any]:
    """What a StudyRecord holds of a search."""
    spec = search.spec
    plain = spec.dump()
    return {
        "objectives": spec.objectives,
        "constraints": {
            name: {k: v for k, v in limits.dump().items() if v is not None} for name, limits in spec.subject_to.items()
        },
        "space": {name: _dimension(each) for name, each in plain["space"].items()},
        "widened": {name: [span.low, span.high] for name, span in search.ranges.items()},
        "base": search.base.arm.label,
        "sampler": plain["sampler"],
        "pruner": plain["pruner"],
        "trials": search.limit,
        "seeds": spec.seeds,
        "front": list(so_far.front),
        "winners": so_far.winners,
        "study": search.name,
    }


def _given(data):
    return {key: value for key, value in data.items() if value is not None}


def _dimension(data):
    """A dimension as plain data, without what is not written."""
    if not isinstance(data.get("choices"), dict):
        return _given(data)
    choices = {}
    for name, choice in data["choices"].items():
        below = {key: _dimension(each) for key, each in choice["space"].items()}
        choices[name] = {key: value for key, value in {"set": choice["set"], "space": below}.items() if value}
    return {"choices": choices}


def with_winners(study: StudyPlan, search: Search, result: Found) -> StudyPlan:
    """The study in which the arms of winners have the values of their trials."""
    planned = [_winner(study, search, each, result.winners.get(each.arm.label)) for each in study.arms]
    return replace(study, arms=planned, search=facts(search, result), choices=(*study.choices, *result.notes))


def _winner(study, search, planned, number):
    if number is None:
        return planned
    root = spaces.overridden(search.base.arm.document, search.axes, search.values(number))
    resolved = experiment.resolved(root)
    changes, follow = differences(study.arms[0].arm.resolved, resolved)
    arm = replace(planned.arm, resolved=resolved, changes=changes, unwritten=follow)
    plan = experiment.plan(resolved, search.base.made)
    cost = arm_cost(plan.spec, study.spec.long_context, plan.cost)
    return ArmPlan(arm, (plan,), cost, planned.needs)
