"""How two studies differ: in what they ask and how they judge, in their arms, and in the resolved specs of arms that both have.

A study is compared as its spec says, or, where a folder is given, as it was run: by its record and the records of its runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch import document
from arch.document import Node
from arch.errors import DataError, SpecError
from arch.spec import diff, spelt, unwritten
from arch.words import listed
from experiments.plan import resolve, whole
from experiments.record import RunRecord
from sweeps import first_seeds, places
from sweeps import study as studies
from sweeps.scale import at_scale, default_scale
from sweeps.spec import StudySpec

# Keys of a study that say what the arms are: the arms themselves are compared. `claims` are compared as they are resolved.
OF_ARMS = ("arms", "grid", "scales", "claims", "runs")


@dataclass(frozen=True)
class Side:
    """One of two studies. about: its own keys as plain data, with claims resolved.

    arms: {label: (the whole resolved experiment, what was written of it)}; of an arm that has no run yet, None.
    """

    name: str
    about: Mapping[str, Any]
    arms: Mapping[str, tuple[dict[str, Any], dict[str, Any]] | None]


def side(reference: str, scale: str | None = None, runs: Path | str = places.RUNS) -> Side:
    """The Side of a study's spec at a scale, or of the folder or place of one that has begun. Raises SpecError, DataError."""
    if folder := places.begun(reference, runs):
        return _begun(folder)
    return _planned(reference, document.load(reference, "sweeps"), scale)


def _planned(name: str, root: Node, scale: str | None) -> Side:
    scale = scale or default_scale(root)
    spec, arms = studies.check(root, scale)
    written = {arm.label: (whole(arm.spec), arm.resolved.written) for arm in arms}
    return Side(f"{name}{at_scale(scale)}", _about(spec.dump(neutral=True), spec.claims), written)


def _begun(folder: Path) -> Side:
    record = places.read(folder)
    arms = {label: _recorded([folder / place for place in arm.runs.values()]) for label, arm in record.arms.items()}
    try:
        spec = StudySpec.parse(record.spec).dump(neutral=True)
    except SpecError:  # of another release
        spec = record.spec
    return Side(str(folder), _about(spec, record.claims), arms)


def _about(spec: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
    firsts = first_seeds.of(spec.get("arms", {}))
    about = {key: value for key, value in spec.items() if key not in OF_ARMS}
    return {**about, "claims": dict(claims), **({"first_seeds": firsts} if firsts else {})}


def _recorded(runs: list[Path]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The experiment that an arm's first run with a record ran."""
    for run in runs:
        if (record := RunRecord.read_whole(run)) is not None:
            try:
                return whole(resolve(record.spec)), record.spec
            except SpecError as error:
                raise DataError(f"{run}: this release cannot read its spec: {error}", key=None) from None
    return None


def differences(a: Side, b: Side) -> list[str]:
    """Lines that say how two studies differ, from the first to the second; `no difference` if they do not."""
    lines = [f"{key}: {spelt(before)} -> {spelt(after)}" for key, (before, after) in diff(a.about, b.about).items()]
    for one, other in ((a, b), (b, a)):
        if only := [label for label in one.arms if label not in other.arms]:
            lines.append(f"only in {one.name}: {'arm' if len(only) == 1 else 'arms'} {listed(map(repr, only))}")
    first, second = next(iter(a.arms)), next(iter(b.arms))
    if first != second:
        lines.append(f"baseline: {first!r} -> {second!r}")
    both = [label for label in a.arms if label in b.arms]
    changes: dict[str, dict[str, tuple[Any, Any]]] = {}
    for label in both:
        one, other = a.arms[label], b.arms[label]
        if one is None or other is None:
            missing = a.name if one is None else b.name
            lines.append(f"arm {label!r}: no run in {missing} has a record, so its spec is not known")
        else:
            found = diff(one[0], other[0])
            hidden = unwritten(found, one[1], other[1])
            changes[label] = {key: pair for key, pair in found.items() if key not in hidden}
    lines += _of_arms(changes)
    return lines or ["no difference"]


def _of_arms(changes: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> list[str]:
    """Lines on arms that both studies have: first what is the same in all of them, then arm by arm."""
    if not changes:
        return []
    first, *others = changes.values()
    shared = {key: pair for key, pair in first.items() if all(other.get(key) == pair for other in others)}
    who = "every arm that both have" if others else f"arm {next(iter(changes))!r}"
    lines = [f"{who}: {key}: {spelt(before)} -> {spelt(after)}" for key, (before, after) in shared.items()]
    for label, own in changes.items():
        lines += [
            f"arm {label!r}: {key}: {spelt(before)} -> {spelt(after)}" for key, (before, after) in own.items() if key not in shared
        ]
    return lines
