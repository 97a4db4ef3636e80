"""What is compared with what: a contrast is a weighted sum over arms, formed within each seed.

"Every arm against the first" is the contrast {arm: 1, first: -1}, and so is a pair. The main effect of a level is the mean,
over the cells of the other factors, of the difference from its factor's first level; an interaction is the difference of two
such differences. All are samples with one number per seed, so one t test serves them all, and each is a question that shares
the error of 5 %.

Weights apply on the scale of the metric (`sweeps.compare`). Where differences are relative, a contrast is therefore a ratio,
and an interaction a ratio of ratios, less one.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Annotated, Any

from pydantic import Field, model_validator

from arch.errors import SpecError, nearest
from arch.spec import List, Spec, later
from arch.words import listed

FACTORS = "factors"
# Between the names of a main effect or an interaction and the size of a ladder at which it is asked.
AT_SIZE = " · "
# Weights are sums of a few fractions such as 1/3.
ROUNDING = 1e-9


class Contrast(Spec):
    """One comparison.

    weights: {arm: weight}; they add up to 0. effect, base: the level whose effect it is (`cap=on`) and the one that it is
    compared with (`cap=off`); empty for a plain comparison. at, than: of an interaction, the levels at which the effect is
    compared (`W=16`, `W=4`). over: the factors over whose cells the effect is averaged. size: of a ladder.
    """

    weights: Annotated[dict[str, float], Field(min_length=2)]
    effect: str = later("")
    base: str = later("")
    at: str = later("")
    than: str = later("")
    over: List[str] = later(())
    size: str = later("")

    @model_validator(mode="after")
    def _adds_up_to_nothing(self):
        if 0 in self.weights.values() or abs(total := sum(self.weights.values())) > ROUNDING:
            what = "a weight of 0" if 0 in self.weights.values() else f"weights that add up to {total:g}"
            raise ValueError(f"weights: {what}; expected weights that add up to 0, such as {{A: -1, B: 1}}")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, those with a negative weight (what is compared with) first."""
        return (*self.negative, *(arm for arm, weight in self.weights.items() if weight > 0))

    @property
    def negative(self) -> tuple[str, ...]:
        """The arms with a negative weight."""
        return tuple(arm for arm, weight in self.weights.items() if weight < 0)

    @property
    def pair(self) -> tuple[str, str] | None:
        """(what is compared with, the arm) of one arm against another; None for other contrasts."""
        return (self.arms[0], self.arms[1]) if sorted(self.weights.values()) == [-1.0, 1.0] else None


# {subject: Contrast}
Contrasts = Mapping[str, Contrast]


def against(arm: str, baseline: str) -> Contrast:
    """An arm against another."""
    return Contrast(weights={arm: 1.0, baseline: -1.0})


def pair_name(baseline: str, arm: str) -> str:
    """The subject of a pair: `B against A`."""
    return f"{arm} against {baseline}"


def pairs(named: Iterable[tuple[str, str]]) -> dict[str, Contrast]:
    """The contrasts of [(A, B), ...]: each B against its A."""
    return {pair_name(baseline, arm): against(arm, baseline) for baseline, arm in named}


def cell(levels: Mapping[str, str]) -> str:
    """The label of the arm with these levels, {factor: level}: `W=4 cap=on`."""
    return " ".join(f"{factor}={level}" for factor, level in levels.items())


def cells(grid: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """{label: {factor: level}} of all cells of {factor: levels}, the cell of the first levels first."""
    every = (dict(zip(grid, levels, strict=True)) for levels in product(*grid.values()))
    return {cell(levels): levels for levels in every}


def factorial(grid: Mapping[str, Sequence[str]], arms: Iterable[str], size: str = "") -> dict[str, Contrast]:
    """The main effects and the two-factor interactions of {factor: levels}, each against the first levels.

    arms: the labels that there are; a cell without an arm is left out of every mean, and a contrast without any complete
    comparison is left out. size: of a ladder; the cells' arms are then `CELL SIZE`.
    """
    there = set(arms)
    labels = {key: f"{key} {size}" if size else key for key in cells(grid)}
    present = [levels for key, levels in cells(grid).items() if labels[key] in there]
    arm_of = {tuple(levels.items()): labels[cell(levels)] for levels in present}

    def averaged(signs, **words):
        """The mean of sum(sign x arm) over the cells of the other factors. signs: [({factor: level}, sign)]."""
        varied = list(signs[0][0])
        others = {factor: levels for factor, levels in grid.items() if factor not in varied}
        groups, rests = [], list(product(*others.values()))
        for rest in rests:
            fixed = dict(zip(others, rest, strict=True))
            keys = [tuple((factor, {**fixed, **levels}[factor]) for factor in grid) for levels, _ in signs]
            if all(key in arm_of for key in keys):
                groups.append([(arm_of[key], sign) for key, (_, sign) in zip(keys, signs, strict=True)])
        weights = {arm: sign / len(groups) for group in groups for arm, sign in group}
        over = list(others)
        if over and len(groups) < len(rests):
            over[-1] += " where complete"
        return Contrast(weights=weights, over=tuple(over), size=size, **words) if groups else None

    made: dict[str, Contrast | None] = {}
    after = f"{AT_SIZE}{size}" if size else ""
    for factor, (first, *levels) in grid.items():
        for level in levels:
            name, base = cell({factor: level}), cell({factor: first})
            made[name + after] = averaged([({factor: level}, 1.0), ({factor: first}, -1.0)], effect=name, base=base)
    for (one, (first, *levels)), (other, (start, *changes)) in combinations(grid.items(), 2):
        for level, change in product(levels, changes):
            # The effect of the later factor, at this level of the earlier one against its first.
            signs = [
                ({one: level, other: change}, 1.0),
                ({one: level, other: start}, -1.0),
                ({one: first, other: change}, -1.0),
                ({one: first, other: start}, 1.0),
            ]
            names = {"effect": cell({other: change}), "base": cell({other: start})}
            names |= {"at": cell({one: level}), "than": cell({one: first})}
            made[f"{names['effect']} × {names['at']}{after}"] = averaged(signs, **names)
    return {name: contrast for name, contrast in made.items() if contrast is not None}


def check(contrasts: Contrasts, known: Iterable[str], path: tuple[Any, ...] = ("contrasts",)) -> None:
    """Raise SpecError at `path` for a contrast with an arm that does not exist."""
    labels = list(known)
    for name, contrast in contrasts.items():
        for arm in contrast.weights:
            if arm not in labels:
                raise SpecError(f"no arm {arm!r}{nearest(arm, labels)}", (*path, name, "weights"))


def what(subject: str, contrast: Contrast) -> str:
    """A comparison in words, as the subject of a sentence: `B against A`, `cap=on against cap=off, averaged over W`."""
    if contrast.at:
        return f"the effect of {contrast.effect} at {contrast.at} against that at {contrast.than}{where(contrast)}"
    if contrast.effect:
        return f"{contrast.effect} against {contrast.base}{where(contrast)}"
    return subject


def stated(subject: str, contrast: Contrast, word: str, by: str = "") -> str:
    """A claim about a comparison: `B is better than A by more than 1 %`. word: `better`; by: ` by more than 1 %`."""
    if contrast.at:
        return f"the effect of {contrast.effect} is {word} at {contrast.at} than at {contrast.than}{by}{where(contrast)}"
    if contrast.effect:
        return f"{contrast.effect} is {word} than {contrast.base}{by}{where(contrast)}"
    if contrast.pair:
        baseline, arm = contrast.pair
        return f"{arm} is {word} than {baseline}{by}"
    return f"{subject} is {word}{by}"


def where(contrast: Contrast) -> str:
    """What a comparison is averaged over, and its size on a ladder; empty for a plain one."""
    over = f", averaged over {listed(contrast.over)}" if contrast.over else ""
    return f"{over}{f', at size {contrast.size}' if contrast.size else ''}"
