"""Every arm against the baseline: worse, better, no difference or undecided.

"Worse" and "better" need a paired difference that is significant after Holm's correction. "No difference" needs two
things: an equivalence test within the margin stated beforehand, corrected too; and every arm known to be worse must be
found worse by the same study, since a study that misses a known difference cannot say that there is none. All other
arms are undecided.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import field_validator

from arch.contracts import Metric, Verdict
from arch.errors import SpecError, nearest
from arch.registry import claim
from arch.spec import List, Positive, Spec
from arch.words import listed
from experiments.metrics import is_measured_once
from sweeps import stats
from sweeps.compare import bounds, harm, margin_text, on_scale
from sweeps.stats import Difference

WORSE, BETTER, SAME, UNDECIDED, BASELINE = "worse", "better", "no difference", "undecided", "baseline"


@claim
class AgainstBaseline:
    """Paired differences from the first arm, with three possible verdicts."""

    class Config(Spec):
        """metric: SPLIT/METRIC of the report split, or speed, memory or a cost. margin: the difference that is too small to matter.

        The margin is a fraction (0.01 is 1 %) of what the metric is shown as (perplexity for a loss), or in the metric's
        unit for a metric that is compared by difference. known_worse: arms known to be worse than the baseline. A study
        that does not find them worse could not have detected a difference.
        """

        metric: str = "report/loss"
        margin: Positive = 0.01
        known_worse: List[str] = ()

        @field_validator("metric")
        @classmethod
        def _is_reported(cls, metric: str) -> str:
            if not metric.startswith("report/") and not is_measured_once(metric):
                raise ValueError("expected report/METRIC: the select split may have chosen values")
            return metric

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms: Collection[str]) -> None:
        """Raises SpecError for an arm known to be worse that does not exist."""
        for i, arm in enumerate(self.config.known_worse):
            if arm not in arms:
                raise SpecError(f"no arm {arm!r}{nearest(arm, arms)}", ("known_worse", i))

    def judge(self, values: Mapping[str, Mapping[int, float]], metric: Metric) -> dict[str, Verdict]:
        """{arm: Verdict} from {arm: {seed: value}}, the baseline first. Raises DataError if neither side is better."""
        scaled = {arm: {seed: on_scale(value, metric) for seed, value in each.items()} for arm, each in values.items()}
        baseline, *arms = scaled
        known_worse = self.config.known_worse
        low, high = bounds(self.config.margin, metric)
        differences = {arm: stats.paired_difference(scaled[arm], scaled[baseline]) for arm in arms}
        p = dict(zip(arms, stats.holm([differences[arm].p for arm in arms]), strict=True))
        # An arm known to be worse is not tested for equivalence, so it does not count in that correction.
        tested = [arm for arm in arms if arm not in known_worse]
        p_same = dict(zip(tested, stats.holm([stats.equivalence_p(differences[arm], low, high) for arm in tested]), strict=True))
        undetected = [arm for arm in known_worse if not _is_worse(differences.get(arm), p.get(arm), metric)]
        family = _Family(self.config, metric, max(1, len(arms)), undetected, differences)
        verdicts = {arm: _verdict(arm, p[arm], p_same.get(arm), family) for arm in arms}
        return {baseline: Verdict(BASELINE), **verdicts}


@dataclass(frozen=True)
class _Family:
    """What the verdict of one arm needs to know about the others. size: the number of comparisons to correct for."""

    config: AgainstBaseline.Config
    metric: Metric
    size: int
    undetected: list[str]
    differences: dict[str, Difference]

    @property
    def margin(self):
        return margin_text(self.config.margin, self.metric)

    @property
    def sees_differences(self):
        return bool(self.config.known_worse) and not self.undetected


def _is_worse(difference, p, metric):
    return p is not None and p < stats.ALPHA and harm(difference.mean, metric) > 0


def _verdict(arm, p, p_same, family):
    difference = family.differences[arm]
    same = p_same is not None and p_same < stats.ALPHA
    if p is not None and p < stats.ALPHA:
        word = WORSE if harm(difference.mean, family.metric) > 0 else BETTER
        return Verdict(word, p, p_same, reason=f"by less than the margin of {family.margin}" if same else "")
    if same and family.sees_differences:
        return Verdict(SAME, p, p_same)
    return Verdict(UNDECIDED, p, p_same, _seeds_needed(arm, same, family), _why_undecided(difference, same, family))


def _why_undecided(difference, same, family):
    if difference.n == 0:
        return "no seed has finished in both this arm and the baseline"
    if difference.n == 1:
        return "one seed gives no interval"
    if same and not family.config.known_worse:
        return (
            f"within ±{family.margin}, but the study names no arm known to be worse, so it cannot show that it detects differences"
        )
    if same:
        return f"within ±{family.margin}, but {listed(family.undetected)}, known to be worse, was not found worse"
    return f"neither a difference nor equivalence within ±{family.margin} is shown"


def _seeds_needed(arm, same, family):
    """The number of seeds that decide an arm one way or the other, at the strictest level of the correction."""
    difference = family.differences[arm]
    if difference.n < 2:
        return None
    alpha = stats.ALPHA / family.size
    by_difference = stats.seeds_for_difference(difference.mean, difference.sd, alpha)
    if arm in family.config.known_worse:
        return by_difference if harm(difference.mean, family.metric) > 0 else math.inf
    if not family.config.known_worse:
        return by_difference
    low, high = bounds(family.config.margin, family.metric)
    alone = difference.n if same else stats.seeds_for_equivalence(difference.mean, difference.sd, low, high, alpha)
    controls = [_seeds_to_detect(family.differences.get(other), alpha, family.metric) for other in family.undetected]
    return max(min(by_difference, max([alone, *controls])), difference.n + 1)


def _seeds_to_detect(difference, alpha, metric):
    """The number of seeds at which an arm known to be worse is found worse, judged by its difference so far."""
    if difference is None or difference.n < 2 or harm(difference.mean, metric) <= 0:
        return math.inf
    return stats.seeds_for_difference(difference.mean, difference.sd, alpha)
