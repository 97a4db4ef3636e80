"""The first seed of an arm: `again: {first_seed: 100}` trains with the seeds 100, 101, ...; without it they count from 0.

Arms with the same first seed have the same initial weights and batches, and are compared within seeds. Arms with different
ones share nothing, so they are compared as independent samples, and an arm may stand beside the same experiment again. Seeds
that only some of them shared would make them neither, so they must not overlap.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from arch.document import Node
from arch.spec import spelt
from arch.words import listed

KEY = "first_seed"
HIGHEST = 2**31  # as of `arch.spec.FirstSeed`


def of(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """{label: first seed} of the arms (label -> overrides) whose seeds do not count from 0."""
    return {label: overrides[KEY] for label, overrides in arms.items() if overrides.get(KEY)}


def without(arm: Node) -> Node:
    """An arm's overrides without its first seed."""
    return Node({key: value for key, value in arm.value.items() if key != KEY}, arm.file, arm.line)


def check(spec: Any, study: Node) -> None:
    """Raise SpecError, at its line, for a first seed that is none, is of a helper run, or whose seeds overlap other seeds."""
    for label, overrides in spec.runs.items():
        if KEY in overrides:
            reason = "a helper run has the seeds of the runs that need it; expected it at an arm"
            raise study.error(reason, ("runs", label, KEY))
    for label, overrides in spec.arms.items():
        first = overrides.get(KEY, 0)
        if type(first) is not int or not 0 <= first <= HIGHEST:
            reason = f"{spelt(first)}; expected a whole number from 0 to {HIGHEST:,}"
            raise study.error(reason, ("arms", label, KEY))
    seeds = {label: spec.seeds_of(label) for label in spec.arms}
    for (one, before), (other, after) in combinations(seeds.items(), 2):
        if before != after and overlap(before, after):
            label, beside = (other, one) if after.start else (one, other)
            there = seeds[beside]
            reason = (
                f"its seeds {_words(seeds[label])} overlap those of {beside!r}, {_words(there)}: the two would be neither paired "
                f"nor independent; expected {there.start}, or at least {there.stop}"
            )
            raise study.error(reason, ("arms", label, KEY))


def check_groups(spec: Any, claims: Mapping[str, Mapping[str, Any]], study: Node) -> None:
    """Raise SpecError where a group of arms, through whose sizes every seed fits a line, has different seeds. claims: resolved."""
    for name, claim in claims.items():
        groups = claim.get("groups")
        for group, labels in groups.items() if isinstance(groups, dict) else ():
            firsts = {spec.first_seed(label) for label in labels if isinstance(labels, (list, tuple))}
            if len(firsts) > 1:
                reason = f"its arms have the first seeds {listed(map(str, sorted(firsts)))}, and every seed fits a line through all"
                raise study.error(f"{reason} of them; expected the same first seed", ("claims", name, "groups", group))


def check_separate(spec: Any, study: Node, seeds: Iterable[int], path: tuple[str, ...], what: str) -> None:
    """Raise SpecError at `path` where a search's `seeds` are among those that are reported. what: `tuning uses`, `trials use`."""
    separate = list(seeds)
    ranges = {spec.seeds_of(label) for label in spec.arms}
    for reported in sorted(ranges, key=lambda each: each.start):
        if overlap(reported, range(separate[0], separate[-1] + 1)):
            least = f"seeds = {reported.stop}" if reported.start == 0 else f"{reported.stop}, the end of an arm's seeds"
            taken = next((seed for seed in separate if seed in reported), separate[0])
            raise study.error(f"{taken} is a reported seed; expected at least {least}: {what} separate seeds", path)


def overlap(one: range, other: range) -> bool:
    """Whether two ranges have a number in common."""
    return max(one.start, other.start) < min(one.stop, other.stop)


def _words(seeds):
    return str(seeds.start) if len(seeds) == 1 else f"{seeds.start} to {seeds[-1]}"
