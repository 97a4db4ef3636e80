"""A metric has a stated value, within a tolerance.

Exact numbers (parameters, cache bytes) are compared. A measured number needs its whole interval inside the tolerance
(two one-sided tests, Schuirmann 1987), and is contradicted if the interval lies wholly outside.
"""

from typing import Annotated

from pydantic import Field

from arch.contracts import UNDECIDED, Verdict
from arch.registry import claim
from arch.spec import Spec
from sweeps import compare, paired, stats
from sweeps.paired import CONTRADICTED, SUPPORTED


@claim
class Value:
    """The metric of ARM (divided by that of `relative_to`) is VALUE, within WITHIN."""

    class Config(Spec):
        """metric: SPLIT/METRIC, or a cost such as `cost/cache_bytes@131072`. arm: the arm.

        value: the metric's value, or with `relative_to` the ratio of the two arms (the difference, for a metric that is
        compared by difference). relative_to: the arm by which the value is divided, if any. within: the tolerance on
        either side, as a fraction of the value; in the metric's unit
        for a metric that is compared by difference. A loss is compared by its perplexity: within 0.02 means 2 % of the
        perplexity, and its ratio is that of the perplexities. source: who claims it; a verdict then says `reproduced`.
        """

        metric: str
        arm: str
        value: float
        within: Annotated[float, Field(ge=0, json_schema_extra={"margin": True})]
        relative_to: str | None = None
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError for an arm that does not exist."""
        paired.known(self.config.arm, arms, ("arm",))
        paired.known(self.config.relative_to or self.config.arm, arms, ("relative_to",))

    def questions(self, arms):
        """One question about one arm, or two."""
        return {self.config.arm: tuple(filter(None, (self.config.relative_to, self.config.arm)))}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        other = f" relative to {self.config.relative_to}" if self.config.relative_to else ""
        within = compare.margin_text(self.config.within, metric)
        return f"{self.config.metric} of {subject}{other} is {self.config.value:g} within {within}"

    def judge(self, evidence):
        """{arm: Verdict}. The difference and the interval are those from the stated value."""
        measured, level, other = evidence.measured[self.config.metric], evidence.level, self.config.relative_to
        metric = measured.metric
        values = paired.scaled(measured, self.config.arm)
        sample = paired.difference(measured, self.config.arm, other) if other else stats.Sample(values, measured.exact)
        stated = self._stated(metric)
        away = sample.less(stated)
        low, high = compare.bounds(self.config.within, metric)
        if measured.exact and away.n:
            # An exact number may lie on the edge of its tolerance.
            inside = low <= away.mean <= high or abs(away.mean) < 1e-12
            p, p_not = (0.0, 1.0) if inside else (1.0, 0.0)
        else:
            p, p_not = max(away.p_above(low), away.p_below(high)), min(away.p_above(high), away.p_below(low))
        facts = {"against": other or "", "difference": away.mean, "interval": away.interval(2 * level)}
        facts |= {"n": away.n, "level": level}
        word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level / 2 else UNDECIDED
        facts["p"] = min(1.0, 2 * p_not) if word == CONTRADICTED else p
        needed = stats.seeds_to_pass(away, low, high, SUPPORTED, level) if word == UNDECIDED else None
        return {self.config.arm: Verdict(word, needed=needed, reason=paired.untestable(away), **facts)}

    def _stated(self, metric):
        """The stated value on the scale of the metric."""
        if self.config.relative_to is None:
            return compare.on_scale(self.config.value, metric)
        return compare.log_ratio(self.config.value) if compare.is_relative(metric) else self.config.value
