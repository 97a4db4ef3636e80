"""A metric of an arm is above other metrics of the same arm: more repetitions, a longer context, a later position.

Both are of the same run, so the difference is one within a seed, and no other arm is needed. Every part must hold, each at the
full level (intersection-union test, Berger 1982): the last is above the first by more than `by`, and no step goes back by
`margin` or more.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field

from arch.contracts import UNDECIDED, Verdict
from arch.errors import SpecError
from arch.registry import claim
from arch.spec import List, Spec
from sweeps import compare, paired, stats
from sweeps.paired import CONTRADICTED, SUPPORTED


@claim
class Rises:
    """From the first of OVER to METRIC it rises, by more than BY together."""

    class Config(Spec):
        """metric: SPLIT/METRIC, the highest. over: those below it, the lowest first; alike in unit and comparison.

        arm: the arm; by default every arm is a question. by: how far the metric is above the first of `over`, as a fraction
        (0.01 is 1 %) of what it is shown as, or in its unit if it is compared by difference. margin: how far a step may go
        back without mattering, in the same. source: who claims it; a verdict then says `reproduced`.
        """

        metric: str
        over: Annotated[List[str], Field(min_length=1)]
        arm: str | None = None
        by: paired.Effect = 0.0
        margin: paired.Margin = 0.01
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def metrics(self):
        """All of them, the highest first."""
        return self.config.metric, *self.config.over

    def check(self, arms):
        """Raises SpecError for an arm that does not exist, and for a metric that is named twice."""
        if self.config.arm is not None:
            paired.known(self.config.arm, arms, ("arm",))
        if len({*self.metrics()}) < len(self.metrics()):
            raise SpecError("a metric is named twice", ("over",))

    def questions(self, arms):
        """One question per arm, of its runs alone."""
        return {arm: (arm,) for arm in ([self.config.arm] if self.config.arm else arms)}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        first, more = self.config.over[0], paired.by(self.config.by, metric)
        steps = f", and no step falls by {compare.margin_text(self.config.margin, metric)}" if len(self.config.over) > 1 else ""
        return f"{self.config.metric} of {subject} is above {first}{more}{steps}"

    def judge(self, evidence):
        """{arm: Verdict}. The difference and the interval are of METRIC from the first of OVER; the steps are in the reason."""
        return {arm: self._verdict(evidence, arm) for arm in self.questions(evidence.measured[self.config.metric].values)}

    def _verdict(self, evidence, arm):
        names, level = (*self.config.over, self.config.metric), evidence.level
        metric = evidence.measured[self.config.metric].metric
        scaled = {name: paired.scaled(evidence.measured[name], arm) for name in names}
        exact = evidence.measured[self.config.metric].exact
        rise = stats.paired(scaled[names[-1]], scaled[names[0]], exact)
        steps = [stats.paired(scaled[after], scaled[before], exact) for before, after in pairwise(names)] if len(names) > 2 else []
        bound, back = compare.bounds(self.config.by, metric)[1], compare.bounds(self.config.margin, metric)[0]
        p = max(rise.p_above(bound), *(step.p_above(back) for step in steps), 0.0)
        p_not = min(rise.p_below(bound), *(step.p_below(back) for step in steps), 1.0)
        parts = 1 + len(steps)
        word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level / parts else UNDECIDED
        if exact and rise.n and word == UNDECIDED:
            word = CONTRADICTED  # numbers at the very bound are not beyond it
        facts = {"p": min(1.0, parts * p_not) if word == CONTRADICTED else p, "difference": rise.mean, "n": rise.n}
        facts |= {"interval": rise.interval(2 * level), "level": level}
        shown = ", ".join(compare.effect_text(step.mean, metric) for step in steps if step.n)
        reason = "; ".join(filter(None, [paired.untestable(rise), f"steps: {shown}" if shown else ""]))
        needed = None
        if word == UNDECIDED and not steps and rise.testable:
            low, high = (bound, float("inf")) if rise.mean > bound else (-float("inf"), bound)
            needed = stats.seeds_to_pass(rise, low, high, SUPPORTED if rise.mean > bound else CONTRADICTED, level)
        return Verdict(word, reason=reason, needed=needed, **facts)
