"""Means, paired differences and equivalence tests over seeds, with t intervals.

Arms share seeds, initial values and batches, so the difference to the baseline is taken seed by seed: the effect of a
seed on both arms cancels. A number that does not exist (such as the spread of one seed) is None.
"""

import math
from dataclasses import dataclass

import numpy as np

# scipy is imported by the functions that need it: a study is planned without it.

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values and its interval."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline over the `n` seeds that both have. p: from a two-sided paired t test."""

    by_seed: dict[int, float]
    mean: float | None
    low: float | None
    high: float | None
    n: int
    sd: float | None
    p: float | None


def mean_interval(values, level=LEVEL):
    """The mean of independent values and its t interval."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n == 0:
        return Estimate(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(half_width(values.std(ddof=1), n, level))
    return Estimate(mean, mean - half, mean + half, n)


def half_width(sd, n, level=LEVEL):
    """Half the width of the t interval of a mean of n values; arrays broadcast."""
    from scipy.special import stdtrit

    return stdtrit(n - 1, (1 + level) / 2) * sd / np.sqrt(n)


def paired_difference(arm, baseline, level=LEVEL):
    """The Difference of two mappings seed -> value over the seeds that both have."""
    by_seed = {seed: float(arm[seed] - baseline[seed]) for seed in arm if seed in baseline}
    values = np.array(list(by_seed.values()))
    estimate = mean_interval(values, level)
    if estimate.n < 2:
        return Difference(by_seed, estimate.mean, None, None, estimate.n, None, None)
    sd = float(values.std(ddof=1))
    p = min(1.0, 2 * _tail(abs(estimate.mean), sd, estimate.n))
    return Difference(by_seed, estimate.mean, estimate.low, estimate.high, estimate.n, sd, p)


def equivalence_p(difference, low, high):
    """The p value of two one-sided paired t tests (Schuirmann 1987) that the difference lies between low and high.

    None with fewer than two seeds.
    """
    if difference.n < 2:
        return None
    above = _tail(difference.mean - low, difference.sd, difference.n)
    below = _tail(high - difference.mean, difference.sd, difference.n)
    return max(above, below)


def _tail(distance, sd, n):
    """The p value of a one-sided t test of a mean `distance` beyond the hypothesis (negative: on the wrong side)."""
    if sd == 0:
        return 0.0 if distance > 0 else 0.5 if distance == 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(n - 1, -distance * math.sqrt(n) / sd))


def holm(p_values):
    """Holm's step-down correction (1979). None stays None and does not count as a test."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def seeds_for_difference(mean, sd, alpha=ALPHA, power=POWER):
    """Seeds at which a paired t test finds a true difference `mean` with this power; infinite beyond MOST_SEEDS."""
    if sd == 0:
        return 2 if mean else math.inf
    return _fewest(lambda n: _detected(n, abs(mean), sd, alpha / 2), power)


def seeds_for_equivalence(mean, sd, low, high, alpha=ALPHA, power=POWER):
    """Seeds at which the equivalence test passes with the given power if the true difference is `mean`.

    The joint power of the two tests is bounded below by the sum of their powers minus one, which errs towards more seeds.
    Infinite if `mean` is outside the margin, or beyond MOST_SEEDS.
    """
    if not low < mean < high:
        return math.inf
    if sd == 0:
        return 2
    return _fewest(lambda n: _detected(n, mean - low, sd, alpha) + _detected(n, high - mean, sd, alpha) - 1, power)


def _detected(n, distance, sd, alpha):
    """The power of a one-sided t test at level alpha: P(T > critical) for a noncentral T."""
    if math.isinf(distance):
        return 1.0
    from scipy.special import stdtrit
    from scipy.stats import nct

    shift, critical = distance * math.sqrt(n) / sd, stdtrit(n - 1, 1 - alpha)
    # scipy's noncentral t gives NaN for very large shifts, where the power is 1 to all digits.
    return 1.0 if shift > critical + 30 else float(nct.sf(critical, n - 1, shift))


def _fewest(power_of, power):
    """The smallest n from 2 to MOST_SEEDS with power_of(n) >= power, by bisection; infinite if there is none."""
    if not power_of(MOST_SEEDS) >= power:
        return math.inf
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
