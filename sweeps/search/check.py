"""Whether a search is sound, before anything runs: every choice resolves, every objective and limit can be known."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from arch.document import Node
from arch.errors import SpecError, nearest
from arch.spec import ABSENT, spelt, value_at
from arch.words import times
from experiments import plan as experiment
from experiments import references
from experiments.metrics import cost, is_cost, unknown_cost
from experiments.spec import RunReference
from sweeps import first_seeds
from sweeps.metrics import declared, metric_of
from sweeps.search import space as spaces
from sweeps.search.space import Axis
from sweeps.spec import StudySpec

WORDS = {"minimise": "lower", "maximise": "higher"}


def check_search(study: Node, spec: StudySpec, arms: list[Any]) -> None:
    """Raise SpecError, at its line, for a search that cannot be done as it is written. arms: sweeps.study.Arm."""
    search = spec.search
    if search is None:
        return
    from sweeps.search import samplers  # it imports Optuna, which a study without a search does not need

    if spec.tune:
        reason = "`tune` and `search` do not stand together; put what is to be tuned into the space of the search"
        raise study.error(reason, ("tune",))
    if spec.ladder:
        reason = "`ladder` and `search` do not stand together: a winner has one size"
        raise study.error(f"{reason}; search in a study of one size, then write what won as an arm of the ladder", ("ladder",))
    base = base_of(study, spec, arms)
    first_seeds.check_separate(spec, study, search.tuning_seeds, ("search", "first_seed"), "trials use")
    _check_objectives(study, search, base)
    for name in search.subject_to:
        _check_limit(study, name)
    axes = spaces.axes(search.space, base.document, study)
    _check_axes(study, base, axes, bool(spec.budget))
    _check_names(study, axes)
    samplers.check_sampler(study, search, axes)
    if search.trials is not None and search.judge > search.trials:
        reason = f"{search.judge} winners of {times(search.trials, 'trial')}; expected at most as many as trials"
        raise study.error(reason, ("search", "judge"))
    if search.widen and len(search.objectives) > 1:
        reason = "with several objectives the best lie everywhere along the front; expected one objective, or no `widen`"
        raise study.error(reason, ("search", "widen"))
    if spec.budget and spec.budget.kind != "tokens":
        reason = f"`budget` and `search` do not stand together: trials would not get the same {spec.budget.kind}"
        raise study.error(f"{reason}; limit cost/train_flops by `subject_to`", ("budget",))
    if spec.match:
        reason = "`match` and `search` do not stand together: the trials would not be matched; limit the cost by `subject_to`"
        raise study.error(reason, ("match",))
    samplers.check_pruner(study, search, base.spec)


def base_of(study: Node, spec: StudySpec, arms: list[Any]) -> Any:
    """The Arm that a search overrides. Raises SpecError for a name that is no arm."""
    assert spec.search is not None
    written = {arm.label: arm for arm in arms if arm.label not in spec.search.winners}
    label = spec.search.base if spec.search.base is not None else next(iter(written))
    if label not in written:
        raise study.error(f"no arm {label!r}{nearest(label, written)}", ("search", "base"))
    return written[label]


def _check_objectives(study, search, base):
    for name, way in search.objectives.items():
        where = ("search", way, getattr(search, way).index(name))
        if name.startswith("report/"):
            raise study.error(f"{name}: the report split is not for choosing; expected select/METRIC", where)
        if is_cost(name):
            if cost(name) is None:
                raise study.error(unknown_cost(name), where)
        elif not name.startswith(("select/", "speed/", "memory/")):
            raise study.error(f"{name!r} is no objective; expected select/METRIC, cost/NAME, speed/NAME or memory/NAME", where)
        else:
            known = declared(base.spec)
            if known is not None and name not in known:
                raise study.error(f"no run of arm {base.label!r} has the metric {name!r}{nearest(name, known)}", where)
        metric = metric_of(base.spec, name)
        if metric is not None and metric.better != WORDS[way]:
            better = {"lower": "minimise", "higher": "maximise"}.get(metric.better)
            reason = (
                f"of {name}, {metric.better} is better; expected `{better}`" if better else f"neither side of {name!r} is better"
            )
            raise study.error(reason, where)


def _check_limit(study, name):
    where = ("search", "subject_to", name)
    if not is_cost(name):
        raise study.error(f"{name!r} is not known before training; expected a cost, such as cost/parameters", where)
    if cost(name) is None:
        raise study.error(unknown_cost(name), where)


def _check_axes(study, base, axes: tuple[Axis, ...], same_tokens: bool):
    """Each value alone on the base arm, below the choices that bring it. same_tokens: of training, whatever the value."""
    before = [each.reference for each in references.of(base.spec)]
    for axis, given in spaces.every(axes):
        if axis.mixture is not None:
            if axis.begins_mixture:
                _check_mixture(study, base, axes, axis, given, same_tokens)
            continue
        span = axis.numbers
        if span is not None and axis.whole and not all(float(end).is_integer() for end in (span.low, span.high, span.step or 1)):
            raise study.error(f"{axis.name} holds whole numbers; expected whole numbers for low, high and step", axis.path)
        taken = {above.name: name for above, name in given}
        for value in axis.ends():
            where = (*axis.path, "choices", value) if axis.branches else axis.path
            place = study.at(where)
            try:
                spec = experiment.resolve(spaces.overridden(base.document, axes, {**taken, axis.name: value}, place))
            except SpecError as error:
                raise spaces.misfit(study, where, f"{axis.name} = {spelt(value)}", error) from None
            if same_tokens and spec.tokens != base.spec.tokens:
                reason = f"{axis.name} = {spelt(value)} changes how many tokens a trial trains on, which `budget` makes equal"
                raise study.error(reason, where)
            if [each.reference for each in references.of(spec)] != before and _made(spec):
                what = f"{axis.name} = {spelt(value)} changes which run the arm needs"
                raise study.error(f"{what}; a search makes the runs that its base needs", where)


def _check_mixture(study, base, axes, axis, given, same_tokens):
    """The base arm has a number at every key of a mixture, and resolves with each part alone."""
    mixture, taken = axis.mixture, {above.name: name for above, name in given}
    above = spaces.overridden(base.document, axes, taken)
    there = experiment.resolve(above).dump()
    for i, key in enumerate(mixture.keys):
        where = (*axis.path, "simplex", i)
        value = value_at(there, key)
        if value is ABSENT:
            outer, _, last = key.rpartition(".")
            beside = value_at(there, outer) if outer else there
            hint = nearest(last, beside) if isinstance(beside, dict) else ""
            raise study.error(f"the arm {base.label!r} has no {key}{hint}", where)
        if isinstance(value, bool) or not isinstance(value, float):
            raise study.error(f"{key} is {spelt(value)}; expected the key of a weight, a real number", where)
    for i, corner in enumerate(mixture.corners()):
        place = study.at(axis.path)
        what = f"{mixture.name} = {mixture.keys[i]} alone"
        try:
            spec = experiment.resolve(spaces.overridden(base.document, axes, {**taken, **corner}, place))
        except SpecError as error:
            raise spaces.misfit(study, axis.path, what, error) from None
        if same_tokens and spec.tokens != base.spec.tokens:
            raise study.error(f"{what} changes how many tokens a trial trains on, which `budget` makes equal", axis.path)


def _made(spec):
    return any(isinstance(each.reference, RunReference) for each in references.of(spec))


def _check_names(study, axes):
    """No key is set twice in one trial, nor as a part of another, and a name means the same in every branch that has it."""
    everywhere = list(spaces.every(axes))
    for (one, given), (other, among) in combinations(everywhere, 2):
        if one.name != other.name:
            continue
        if _together(given, among):
            raise study.error(f"{one.name} is a dimension twice; expected one range for it", other.path)
        if _content(one) != _content(other):
            raise study.error(f"{one.name} has another range in another choice; expected the same in both", other.path)
    keys = [(axis.name, given, axis.path) for axis, given in everywhere if not axis.branches and axis.mixture is None]
    keys += [
        (key, given, axis.path) for axis, given in everywhere if axis.mixture and axis.begins_mixture for key in axis.mixture.keys
    ]
    for axis, given in everywhere:
        for name, branch in axis.branches.items():
            keys += [(key, (*given, (axis, name)), (*axis.path, "choices", name)) for key in branch.overrides]
    for (key, given, _), (again, among, path) in combinations(keys, 2):
        if not _together(given, among):
            continue
        if key == again:
            raise study.error(f"{key} is set by two dimensions at once; expected one of them to set it", path)
        (outer, brings), (inner, brought) = sorted([(key, given), (again, among)], key=lambda each: len(each[0]))
        # A choice may set a mixer, and a dimension that this choice brings may set a width of it.
        if inner.startswith(f"{outer}.") and brought[: len(brings)] != brings:
            reason = f"{inner} lies within {outer}, which another dimension sets as a whole"
            raise study.error(f"{reason}; expected it in the `space` of the choices that have it", path)


def _together(given, among):
    """Whether the choices that bring two dimensions can be taken in one trial."""
    first = {axis.name: name for axis, name in given}
    return all(first.get(axis.name, name) == name for axis, name in among)


def _content(axis):
    branches = {
        name: ([*each.overrides.items()], [_content(below) for below in each.below]) for name, each in axis.branches.items()
    }
    return axis.numbers, axis.whole, axis.values, axis.mixture, branches
