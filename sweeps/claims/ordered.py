"""Arms are ordered: each is worse than the one before, up to a margin, and together they rise.

A trend alone is no order: a contrast is also significant if only the last arm is worse, or if two arms in the middle are
swapped. So the claim needs both: the contrast over all arms, and every adjacent step (intersection-union test,
Berger 1982: each part is tested at the full level).
"""

from itertools import pairwise

import numpy as np

from arch.contracts import UNDECIDED, Verdict
from arch.registry import claim
from arch.spec import List, Spec
from sweeps import compare, paired
from sweeps.paired import CONTRADICTED, SUPPORTED


@claim
class Ordered:
    """ARMS are ordered from the best to the worst."""

    class Config(Spec):
        """arms: at least three, from the best to the worst. metric: SPLIT/METRIC.

        margin: how far a step may go the other way without mattering; as a fraction, or in the metric's unit for a metric
        that is compared by difference. source: who claims it; a verdict then says `reproduced`.
        """

        arms: List[str]
        metric: str = "report/loss"
        margin: paired.Margin = 0.01
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError for fewer than three arms, for one that does not exist and for one that is named twice."""
        paired.at_least(3, self.config.arms, ("arms",))
        paired.known(self.config.arms, arms, ("arms",))

    @property
    def subject(self):
        """The claim in short."""
        return " → ".join(self.config.arms)

    def questions(self, arms):
        """One question."""
        return {self.subject: self.config.arms}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        first, *_, last = self.config.arms
        margin = compare.margin_text(self.config.margin, metric)
        return f"from {first} to {last} it gets worse, and no step is better by {margin} or more ({subject})"

    def judge(self, evidence):
        """{subject: Verdict}. The interval is that of the contrast; the steps are in the reason."""
        measured, level, margin = evidence.measured[self.config.metric], evidence.level, self.config.margin
        metric, arms = measured.metric, self.config.arms
        steps = [paired.difference(measured, after, before) for before, after in pairwise(arms)]
        contrast = self._contrast(measured)
        p = max(paired.p_worse(contrast, 0.0, metric), *(paired.p_worse(step, -margin, metric) for step in steps))
        p_not = min(paired.p_better(step, 0.0, metric) for step in steps)
        facts = {"difference": contrast.mean, "interval": contrast.interval(2 * level), "n": contrast.n, "level": level}
        shown = [self._step(pair, step, metric) for pair, step in zip(pairwise(arms), steps, strict=True) if step.n]
        reason = "; ".join(filter(None, [paired.untestable(contrast), f"steps: {', '.join(shown)}" if shown else ""]))
        word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level / len(steps) else UNDECIDED
        if measured.exact and contrast.n and word == UNDECIDED:
            word = CONTRADICTED  # numbers that are equal have no order
        facts["p"] = min(1.0, len(steps) * p_not) if word == CONTRADICTED else p
        return {self.subject: Verdict(word, reason=reason, **facts)}

    def _contrast(self, measured):
        """The slope over the arms' places, one per seed that all arms have, on the scale of the metric."""
        arms = self.config.arms
        places = np.arange(len(arms)) - (len(arms) - 1) / 2
        return paired.weighted(measured, dict(zip(arms, places / (places**2).sum(), strict=True)))

    def _step(self, pair, step, metric):
        return f"{pair[0]} to {pair[1]} {compare.effect_text(step.mean, metric)}"
