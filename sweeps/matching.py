"""`match:` of a study: whole numbers that make a cost equal over the arms, solved on the cost model before any training.

The solved values become overrides of the arms, so that whatever comes after sees plain arms.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from arch import document
from arch.document import Node
from arch.errors import SpecError, nearest
from arch.spec import ABSENT, value_at
from experiments import plan as experiment
from experiments import references
from experiments.spec import ExperimentSpec
from sweeps import space
from sweeps.arms import Arm, Family, with_overrides
from sweeps.costs import exact_cost
from sweeps.nearest_whole import REACH, Nearest
from sweeps.nearest_whole import nearest as nearest_whole
from sweeps.record import MatchRecord
from sweeps.spec import MatchSpec, StudySpec

# Several matches are solved in turn, so often at most: each can move what the one before made equal.
ROUNDS = 8

Place = tuple[str | int, ...]
Chosen = dict[str, dict[str, int]]


def matched(spec: StudySpec, study: Node, base: Node) -> tuple[StudySpec, Node, list[MatchRecord]]:
    """(StudySpec, study node, what was matched) with the solved values as overrides of the arms.

    study, base: as `sweeps.spec.split` returns them. Raises SpecError, at the line of `match`, for an arm that cannot be
    matched within the tolerance, and at the line of the key for what is not as `MatchSpec` says.
    """
    if not spec.matches:
        return spec, study, []
    family = Family(spec, study, base)
    jobs = [job for where, match in spec.matches for job in _jobs(where, match, spec, study, family)]
    _check_apart(jobs, study)
    chosen: Chosen = {}
    for _ in range(ROUNDS):
        before = {label: dict(values) for label, values in chosen.items()}
        for job in jobs:
            chosen[job.arm.label] = chosen.get(job.arm.label, {}) | _solved(job, chosen, family, study)
        if len(spec.matches) == 1 or chosen == before:
            break
    found = [_record(job, chosen, family) for job in jobs]
    for job, record in zip(jobs, found, strict=True):
        if job.paths and abs(record.residual) > job.match.tolerance:
            reason = f"arm {job.arm.label!r}: the other matches move {record.quantity} to {_relative(record)}"
            raise study.error(f"{reason}, over the tolerance of {job.match.tolerance:g}", job.where)
    chosen |= {label: chosen[arm] for label, arm in spec.winners.items() if arm in chosen}
    return *with_overrides(spec, study, chosen, study.at(("match",))), found


def check_tuned(study: Node, spec: StudySpec, found: list[MatchRecord], arms: list[Arm]) -> None:
    """Raise SpecError for a tuned key that `match` solves, or with which a matched cost would change."""
    keys = list(spec.tune.space) if spec.tune and found else []
    for key in keys:
        for record in found:
            where = ("tune", "space", key)
            if key in record.values:
                raise study.error("`match` solves this key, so it cannot be tuned too", where)
            arm = next((arm for arm in arms if arm.label == record.arm), None)
            if arm is None or not key.startswith(("model.", "data.", "train.")):
                continue
            assert spec.tune is not None
            for value in space.points(space.widest(spec.tune, arm.spec), arm.spec):
                tried = resolved(arm.document, {key: value[key]})
                if tried is not None and exact_cost(record.quantity, tried) != exact_cost(record.quantity, arm.spec):
                    reason = f"{record.quantity} of arm {record.arm!r} changes with it, which `match` makes equal"
                    raise study.error(f"{reason}; tune what changes no cost, or leave out `match`", where)


@dataclass(frozen=True)
class _Job:
    """One arm and one match. paths: the dotted keys that it varies; none if it stays as written."""

    where: Place
    match: MatchSpec
    arm: Arm
    to: str | float
    paths: tuple[str, ...]
    place: Node


def _jobs(where: Place, match: MatchSpec, spec: StudySpec, study: Node, family: Family) -> Iterator[_Job]:
    """Yields a _Job for every arm that is compared with a target. Raises SpecError for keys that an arm cannot vary."""
    labels = [*(label for label in spec.arms if label not in spec.winners)]
    labels += [*(label for label in spec.runs if isinstance(match.vary, dict) and spec.varied(match, label))]
    arms, keys = {label: family.arm(label) for label in labels}, {label: spec.varied(match, label) for label in labels}
    place = study.at((*where, "vary"))
    _check_known(where, match, study, arms, keys)
    for label, arm in arms.items():
        to = spec.matched_to(match, label)
        if to is not None:
            paths = tuple(_varied(where, match, study, arm, keys[label])) if keys[label] else ()
            yield _Job((*where,), match, arm, to, paths, place)


def _check_known(where: Place, match: MatchSpec, study: Node, arms: dict[str, Arm], keys: dict[str, tuple[str, ...]]) -> None:
    """Raise SpecError for a key of `vary` or `multiple_of` that no arm has."""
    every = {path: (*where, "vary") for paths in keys.values() for path in paths}
    several = match.multiple_of if isinstance(match.multiple_of, dict) else {}
    for path in several:
        if path not in every:
            raise study.error(f"{path!r} is not varied{nearest(path, every)}", (*where, "multiple_of", path))
    for path, place in every.items():
        if all(_value(arm.spec, path) is ABSENT for arm in arms.values()):
            known = dict.fromkeys(key for arm in arms.values() for key in _whole_keys(arm.spec.model.dump(), "model."))
            raise study.error(f"no arm has the key {path!r}{nearest(path, known)}", place)


def _varied(where: Place, match: MatchSpec, study: Node, arm: Arm, keys: tuple[str, ...]) -> Iterator[str]:
    """Yields the keys that an arm varies: those of `vary` that it has and that its layers use."""
    place, found = (*where, "vary"), False
    own = study.at(("arms", arm.label)) if arm.label in study.value["arms"].value else study.at(("runs", arm.label))
    for path in keys:
        value = _value(arm.spec, path)
        if value is ABSENT:
            continue
        if type(value) is not int:
            said = "null" if value is None else f"{value!r}"
            raise study.error(
                f"{path} is {said} in arm {arm.label!r}; expected a whole number, from which the search starts", place
            )
        if path in own.value:
            reason = f"`match` solves {path}, but the arm overrides it"
            raise own.error(f"{reason}; leave it out, or name the other arms alone: `vary: {{ARM: {path}}}`", (path,))
        if _is_used(arm, path, value, match.multiple(path)):
            found = True
            yield path
    if not found:
        raise study.error(
            f"arm {arm.label!r} has no layer with {' or '.join(keys)}; give each arm its own: `vary: {{ARM: KEY}}`", place
        )


def _is_used(arm: Arm, path: str, value: int, multiple: int) -> bool:
    """Whether the layers of an arm depend on a key: one of a block that no layer uses, and is like no other, changes nothing."""
    if not path.startswith("model.blocks."):
        return True
    step = (value // multiple + 1) * multiple
    for other in (value + i for i in (*range(step - value, step - value + multiple * REACH, multiple), *range(-1, -REACH, -1))):
        tried = resolved(arm.document, {path: other}) if other > 0 else None
        if tried is not None:
            return _of_layers(tried) != _of_layers(arm.spec)
    return True


def _of_layers(spec: ExperimentSpec) -> list[Any]:
    return [spec.model.blocks[name] for name in dict.fromkeys(spec.model.layer_blocks())]


def _check_apart(jobs: list[_Job], study: Node) -> None:
    """Raise SpecError where two matches vary the same key of an arm."""
    seen: set[tuple[str, str]] = set()
    for job in jobs:
        for path in job.paths:
            if (job.arm.label, path) in seen:
                raise study.error(f"another match varies {path} of arm {job.arm.label!r} already", (*job.where, "vary"))
            seen.add((job.arm.label, path))


def _solved(job: _Job, chosen: Chosen, family: Family, study: Node) -> dict[str, int]:
    """{dotted key: value} at which an arm's cost is nearest to the target; empty if the arm has it already. Raises SpecError."""
    if not job.paths:
        return {}
    here = {path: _value(job.arm.spec, path) for path in job.paths}
    others = {key: value for key, value in chosen.get(job.arm.label, {}).items() if key not in job.paths}
    target, quantity = _target(job, chosen, family), job.match.quantity
    refused: list[str] = []

    def cost(values: dict[str, int]) -> float | None:
        return _cost(job.arm, {**others, **values}, quantity, job.place, refused)

    if cost({}) == target:
        return {}
    lead = max(job.paths, key=lambda path: here[path])
    values = lambda number: _values(job, here, lead, number)  # noqa: E731

    def gap(number: int) -> float | None:
        value = cost(values(number))
        return None if value is None else value - target

    found = nearest_whole(gap, max(1, round(here[lead] / job.match.multiple(lead))))
    if found.best is None:
        why = f": {refused[0]}" if refused else f": arm {job.arm.label!r} has no {quantity}"
        raise study.error(
            f"no multiple of {job.match.multiple(lead)} near {here[lead]} works for {lead}{why}", (*job.where, "multiple_of")
        )
    best = values(found.best)
    if abs((cost(best) or 0) / target - 1) > job.match.tolerance:
        raise study.error(_why(job, found, values, cost, target), job.where)
    return best


def _values(job: _Job, here: dict[str, int], lead: str, number: int) -> dict[str, int]:
    """The values of all varied keys where the leading one is `number` multiples: the others keep their ratio to it."""
    scale = number * job.match.multiple(lead) / here[lead]
    multiples = {path: job.match.multiple(path) for path in here}
    return {path: max(1, round(scale * value / multiples[path])) * multiples[path] for path, value in here.items()}


def _why(job: _Job, found: Nearest, values: Any, cost: Callable[[dict[str, int]], float | None], target: float) -> str:
    """Why an arm cannot be matched: what comes nearest, on both sides."""
    match, of = job.match, f" of {job.to!r}" if isinstance(job.to, str) else ""
    keys = " and ".join(job.paths)
    if not found.moves:
        return (
            f"arm {job.arm.label!r}: its {match.quantity}, {cost({}):,.0f}, does not change with {keys}; expected {target:,.0f}{of}"
        )
    tried = [values(number) for number in sorted(n for n in (found.best, found.other) if n is not None)]
    ways = [f"{_spelt(each)} gives {value:,.0f} ({100 * (value / target - 1):+.2f} %)" for each in tried if (value := cost(each))]
    want = f"{match.quantity} within {100 * match.tolerance:g} % of {target:,.0f}{of}"
    return f"arm {job.arm.label!r} cannot be matched: no value of {keys} gives {want}; {', '.join(ways)}"


def _spelt(values: dict[str, int]) -> str:
    return ", ".join(f"{path.rpartition('.')[2] if len(values) == 1 else path} = {value}" for path, value in values.items())


def _relative(record: MatchRecord) -> str:
    return f"{100 * record.residual:+.2f} % of {record.target:,.0f}"


def _target(job: _Job, chosen: Chosen, family: Family) -> float:
    """The cost that a job is to reach. Raises SpecError where the arm that it names has none."""
    if not isinstance(job.to, str):
        return job.to
    arm, refused = family.arm(job.to), list[str]()
    value = _cost(arm, chosen.get(job.to, {}), job.match.quantity, job.place, refused)
    if not value:
        what = "no" if value is None else "0"
        raise arm.document.error(f"arm {job.to!r} has {what} {job.match.quantity}, so nothing can be matched to it")
    return value


def _record(job: _Job, chosen: Chosen, family: Family) -> MatchRecord:
    """What came of a job, with every match's values in place."""
    own, target = chosen.get(job.arm.label, {}), _target(job, chosen, family)
    value = _cost(job.arm, own, job.match.quantity, job.place, []) or 0.0
    return MatchRecord(
        arm=job.arm.label,
        quantity=job.match.quantity,
        to=job.to if isinstance(job.to, str) else "",
        target=target,
        tolerance=job.match.tolerance,
        values={path: own[path] for path in job.paths if path in own},
        varies=job.paths,
        value=value,
        residual=value / target - 1,
    )


def _cost(arm: Arm, values: dict[str, int], quantity: str, place: Node, refused: list[str]) -> float | None:
    """The cost of an arm with other values; None where they do not resolve (`refused` then gets the reason), or it has none."""
    spec = resolved(arm.document, values, place, refused) if values else arm.spec
    if spec is None:
        return None
    with experiment.at_its_line(arm.document):
        used = references.referred(spec, {position: need.spec for position, need in arm.needs.items()})
        return exact_cost(quantity, spec, references.costs(spec, None, used))


def resolved(
    root: Node, values: dict[str, Any], place: Node | None = None, refused: list[str] | None = None
) -> ExperimentSpec | None:
    """An arm's resolved spec with other values of dotted keys, or None if it cannot be."""
    at = (place.file, place.line) if place else (None, None)
    try:
        return experiment.resolve(document.overridden(root, document.node(values, *at)))
    except SpecError as error:
        if refused is not None:
            refused.append(f"{'.'.join(map(str, error.path))}: {error.reason}")
        return None


def _value(spec: ExperimentSpec, path: str) -> Any:
    """The value of a resolved experiment at a dotted key; ABSENT where there is none."""
    return value_at(spec.dump(neutral=True), path)


def _whole_keys(data: dict[str, Any], prefix: str) -> Iterator[str]:
    """The dotted keys of all whole numbers."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _whole_keys(value, f"{prefix}{key}.")
        elif type(value) is int and key != "schema":
            yield f"{prefix}{key}"
