"""A metric is at least, or at most, a stated number: a one-sided t test.

`value` claims a number on both sides; here a paper says `under 15 %` or `at least twice as fast`, and more is no objection.
"""

from pydantic import model_validator

from arch.contracts import UNDECIDED, Verdict
from arch.registry import claim
from arch.spec import Spec
from sweeps import compare, paired, stats
from sweeps.paired import CONTRADICTED, SUPPORTED


@claim
class Bound:
    """The metric of ARM (divided by that of `relative_to`) is AT_LEAST, or AT_MOST, a number."""

    class Config(Spec):
        """metric: SPLIT/METRIC, or a cost such as `cost/cache_bytes@131072`. arm: the arm. at_least, at_most: the bound, one of
        them; of a loss, whose differences are logarithms, a loss, or with `relative_to` a ratio of perplexities.

        relative_to: the arm by which the metric is divided, if any (the bound is then that of the ratio; of the difference,
        for a metric that is compared by difference). source: who claims it; a verdict then says `reproduced`.
        """

        metric: str
        arm: str
        at_least: float | None = None
        at_most: float | None = None
        relative_to: str | None = None
        source: str = ""

        @model_validator(mode="after")
        def _one_side(self):
            if (self.at_least is None) == (self.at_most is None):
                raise ValueError("expected one of `at_least` and `at_most`")
            return self

    def __init__(self, config: Config):
        self.config = config

    @property
    def bound(self) -> float:
        """The stated number."""
        least, most = self.config.at_least, self.config.at_most
        return least if least is not None else most if most is not None else 0.0

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
        side = "at least" if self.config.at_least is not None else "at most"
        return f"{self.config.metric} of {subject}{other} is {side} {self.bound:g}"

    def judge(self, evidence):
        """{arm: Verdict}. The difference and the interval are those from the bound."""
        measured, level, other = evidence.measured[self.config.metric], evidence.level, self.config.relative_to
        if other:
            sample = paired.difference(measured, self.config.arm, other)
        else:
            sample = stats.Sample(paired.scaled(measured, self.config.arm), measured.exact)
        stated = self._stated(measured.metric)
        away = sample.less(stated)
        above, below = away.p_above(0.0), away.p_below(0.0)
        inside, outside = (above, below) if self.config.at_least is not None else (below, above)
        facts = {"against": other or "", "difference": away.mean, "interval": away.interval(2 * level)}
        facts |= {"n": away.n, "level": level}
        if measured.exact and away.n:
            # A number at the very bound is at least, and at most, the bound.
            word = CONTRADICTED if outside == 0.0 and abs(away.mean) > 1e-12 else SUPPORTED
            return {self.config.arm: Verdict(word, p=0.0, **facts)}
        word = SUPPORTED if inside <= level else CONTRADICTED if outside <= level else UNDECIDED
        return {
            self.config.arm: Verdict(
                word,
                p=outside if word == CONTRADICTED else inside,
                needed=self._needed(away, level) if word == UNDECIDED else None,
                reason=paired.untestable(away),
                **facts,
            )
        }

    def _needed(self, away, level):
        if not away.testable:
            return None
        is_above = away.mean > 0
        word = SUPPORTED if is_above == (self.config.at_least is not None) else CONTRADICTED
        low, high = (0.0, float("inf")) if is_above else (float("-inf"), 0.0)
        return stats.seeds_to_pass(away, low, high, word, level)

    def _stated(self, metric):
        """The bound on the scale of the metric."""
        if self.config.relative_to is None:
            return compare.on_scale(self.bound, metric)
        return compare.log_ratio(self.bound) if compare.is_relative(metric) else self.bound
