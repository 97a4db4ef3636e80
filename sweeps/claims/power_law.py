"""Loss falls as a power of size or compute: log L = a + b log C, with one slope b per seed (Griffin, figure 1a).

Each seed gives each group of arms one slope, by least squares, so the t interval over seeds needs no model of the noise,
and groups are compared seed by seed. Nothing is said beyond the sizes that were run: with a floor under the loss, no
interval of an extrapolation is honest (Besiroglu et al. 2024).
"""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from arch.contracts import UNDECIDED, Verdict
from arch.registry import claim
from arch.spec import List, Spec
from arch.words import listed
from sweeps import paired, stats
from sweeps.paired import CONTRADICTED, SUPPORTED

SIZES = 3
# Sizes that differ by less than this factor are one size.
ONE_SIZE = 1.001


@claim
class PowerLaw:
    """The exponent of each group is EXPONENT, and further groups are steeper than, flatter than or the same as the first."""

    class Config(Spec):
        """groups: {name: at least three arms of different size}. metric: SPLIT/METRIC, a positive number such as a loss.

        over: what the size is, e.g. `cost/train_flops`. exponent, within: the slope that every group is claimed to have,
        and its tolerance. than_first: what further groups are claimed to be against the first: `steeper` (the metric falls
        faster), `flatter`, or `same` within `margin`. margin: the difference of slopes that does not matter. source: who
        claims it; a verdict then says `reproduced`.
        """

        groups: dict[str, List[str]]
        metric: str = "report/loss"
        over: str = "cost/train_flops"
        exponent: float | None = None
        within: Annotated[float, Field(gt=0)] = 0.01
        than_first: Literal["steeper", "flatter", "same"] | None = None
        margin: Annotated[float, Field(gt=0)] = 0.01
        source: str = ""

        @model_validator(mode="after")
        def _asks_something(self):
            if not self.groups:
                raise ValueError("groups: expected at least one")
            if self.exponent is None and (self.than_first is None or len(self.groups) < 2):
                raise ValueError("expected `exponent`, or `than_first` and at least two groups: otherwise nothing is claimed")
            return self

    def __init__(self, config: Config):
        self.config = config

    def metrics(self):
        """The metric and the size."""
        return self.config.metric, self.config.over

    def check(self, arms):
        """Raises SpecError for groups of fewer than three arms, and for arms that do not exist."""
        for name, labels in self.config.groups.items():
            paired.at_least(SIZES, labels, ("groups", name))
            paired.known(labels, arms, ("groups", name))

    def questions(self, arms):
        """One question per group with `exponent`, and one per further group with `than_first`."""
        groups = self.config.groups
        asked: dict[str, tuple[str, ...]] = {}
        first = next(iter(groups))
        if self.config.exponent is not None:
            asked |= {f"exponent of {name}": labels for name, labels in groups.items()}
        if self.config.than_first is not None:
            others = {name: labels for name, labels in groups.items() if name != first}
            asked |= {f"{name} against {first}": (*groups[first], *labels) for name, labels in others.items()}
        return asked

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        if subject.startswith("exponent of "):
            return f"{subject} is {self.config.exponent:g} within {self.config.within:g}"
        same = f"the same within {self.config.margin:g}"
        return f"{subject}: its exponent is {same if self.config.than_first == 'same' else self.config.than_first}"

    def judge(self, evidence):
        """{subject: Verdict}. The difference and the interval are of the slope from what is claimed, or of two slopes."""
        slopes = {name: self._slopes(evidence, labels) for name, labels in self.config.groups.items()}
        first, *others = self.config.groups
        verdicts = {}
        if self.config.exponent is not None:
            for name, slope in slopes.items():
                away = slope.less(self.config.exponent)
                verdict = _within(away, self.config.within, evidence.level, _shown(slope, evidence.level))
                verdicts[f"exponent of {name}"] = self._qualified(verdict, evidence, name)
        if self.config.than_first is not None:
            for name in others:
                change = stats.less(
                    slopes[name], slopes[first], self._first_seed(evidence, name) != self._first_seed(evidence, first)
                )
                verdicts[f"{name} against {first}"] = self._qualified(self._compared(change, evidence.level), evidence, first, name)
        return verdicts

    def _first_seed(self, evidence, name):
        """From where the seeds of a group's arms count; planning refuses a group of arms with different ones."""
        return evidence.measured[self.config.metric].first_seeds.get(self.config.groups[name][0], 0)

    def _qualified(self, verdict, evidence, *names):
        """The verdict; where the sizes of a group are too few for a slope, that is the reason why it is undecided."""
        counts = {name: self._sizes(evidence, self.config.groups[name]) for name in names}
        few = [name for name, count in counts.items() if 0 < count < SIZES]
        text = f"{listed(few)}: fewer than {SIZES} different values of {self.config.over}, so there is no slope"
        return replace(verdict, reason=text) if few else verdict

    def _sizes(self, evidence, labels):
        """How many different sizes the arms of a group have; 0 where one has none."""
        groups = [list(evidence.measured[self.config.over].values.get(arm, {}).values()) for arm in labels]
        if not all(groups):
            return 0
        ascending = sorted(float(np.mean(each)) for each in groups)
        return 1 + sum(after > ONE_SIZE * before for before, after in pairwise(ascending))

    def _slopes(self, evidence, labels):
        """The Sample of one slope per seed that all arms of a group have; empty for fewer than SIZES sizes."""
        losses, sizes = evidence.measured[self.config.metric].values, evidence.measured[self.config.over].values
        if self._sizes(evidence, labels) < SIZES or not all(losses.get(arm) for arm in labels):
            return stats.Sample()
        seeds = [seed for seed in losses[labels[0]] if all(seed in losses[arm] for arm in labels)]
        points = [(float(np.mean(list(sizes[arm].values()))), {seed: losses[arm][seed] for seed in seeds}) for arm in labels]
        return stats.Sample({seed: slope for seed, (slope, _) in fits(points).items()})

    def _compared(self, change, level):
        shown = f"difference of the exponents {_shown(change, level)}"
        if self.config.than_first == "same":
            return _within(change, self.config.margin, level, shown)
        steeper, flatter = change.p_below(0.0), change.p_above(0.0)
        p, p_not = (steeper, flatter) if self.config.than_first == "steeper" else (flatter, steeper)
        word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level else UNDECIDED
        facts = {"p": p_not if word == CONTRADICTED else p, "n": change.n, "level": level}
        facts |= {"difference": change.mean, "interval": change.interval(2 * level)}
        return Verdict(word, reason=paired.untestable(change) or shown, **facts)


def fits(points):
    """{seed: (exponent, log of the value at size 1)} of [(size, {seed: value})], over the seeds that all sizes have.

    Empty for fewer than SIZES different sizes.
    """
    ascending = sorted(size for size, _ in points)
    if 1 + sum(after > ONE_SIZE * before for before, after in pairwise(ascending)) < SIZES:
        return {}
    first, x = points[0][1], [np.log(size) for size, _ in points]
    seeds = [seed for seed in first if all(seed in values for _, values in points)]
    lines = {seed: np.polyfit(x, [np.log(values[seed]) for _, values in points], 1) for seed in seeds}
    return {seed: (float(slope), float(level)) for seed, (slope, level) in lines.items()}


def _within(away, tolerance, level, shown):
    p = max(away.p_above(-tolerance), away.p_below(tolerance))
    p_not = min(away.p_above(tolerance), away.p_below(-tolerance))
    word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level / 2 else UNDECIDED
    facts = {"p": min(1.0, 2 * p_not) if word == CONTRADICTED else p, "n": away.n, "level": level}
    facts |= {"difference": away.mean, "interval": away.interval(2 * level)}
    return Verdict(word, reason=paired.untestable(away) or shown, **facts)


def _shown(slope, level):
    interval = slope.interval(2 * level)
    return "unknown" if interval is None else f"{slope.mean:+.4f} [{interval[0]:+.4f}, {interval[1]:+.4f}]"
