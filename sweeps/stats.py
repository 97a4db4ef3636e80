"""Samples over seeds: means, t intervals, one-sided t tests, and how many seeds would decide.

Arms share seeds, initial values and batches, so the difference to the baseline is taken seed by seed: the effect of a
seed on both arms cancels. A number that does not exist (such as the spread of one seed) is None.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from arch.contracts import SeedsNeeded
from sweeps.looks import ALPHA

# scipy is imported by the functions that need it: a study is planned without it.

LEVEL = 1 - ALPHA
POWER = 0.8
MOST_SEEDS = 1000
# With two seeds, the spread has one degree of freedom, and rounding alone can make it zero.
FEWEST = 3
# A spread below this part of the largest value is that of rounding.
ROUNDING = 1e-9
# The interval of the spread over which the number of seeds needed is given.
SPREAD = 0.8


@dataclass(frozen=True)
class Sample:
    """One number per seed. exact: the numbers are computed and not measured, so they are compared without a test."""

    by_seed: Mapping[int, float] = field(default_factory=dict)
    exact: bool = False

    @cached_property
    def values(self):
        """The numbers as an array."""
        return np.array(list(self.by_seed.values()), dtype=float)

    @property
    def n(self):
        """The number of seeds."""
        return len(self.by_seed)

    @cached_property
    def mean(self):
        """The mean, or None."""
        return float(self.values.mean()) if self.n else None

    @cached_property
    def sd(self):
        """The standard deviation over seeds, or None with fewer than two."""
        return float(self.values.std(ddof=1)) if self.n > 1 else None

    @property
    def testable(self):
        """Whether a test or an interval means anything: enough seeds, and a spread."""
        return self.n >= FEWEST and self.sd > ROUNDING * float(abs(self.values).max())

    def interval(self, error=ALPHA):
        """(low, high): the two-sided t interval of the mean that misses it with probability `error`; None without one."""
        if self.exact and self.n:
            return self.mean, self.mean
        if not self.testable:
            return None
        half = float(half_width(self.sd, self.n, 1 - error))
        return self.mean - half, self.mean + half

    def p_above(self, bound):
        """The p value of the one-sided t test that the mean is above `bound`; 1 where nothing can be tested."""
        return self._p(self.mean - bound) if self.n else 1.0

    def p_below(self, bound):
        """The p value of the one-sided t test that the mean is below `bound`; 1 where nothing can be tested."""
        return self._p(bound - self.mean) if self.n else 1.0

    def _p(self, distance):
        if self.exact:
            return 0.0 if distance > 0 else 1.0
        if not self.testable:
            return 1.0
        if math.isinf(distance):
            return 0.0 if distance > 0 else 1.0
        from scipy.special import stdtr

        return float(stdtr(self.n - 1, -distance * math.sqrt(self.n) / self.sd))

    def heaviest(self):
        """(seed, share): the seed with the largest part of the variance, or None without a spread."""
        if not self.testable:
            return None
        squares = (self.values - self.mean) ** 2
        i = int(squares.argmax())
        return list(self.by_seed)[i], float(squares[i] / squares.sum())


def paired(arm, baseline, exact=False):
    """The Sample of arm minus baseline, two mappings {seed: value}, over the seeds that both have."""
    return Sample({seed: float(arm[seed] - baseline[seed]) for seed in arm if seed in baseline}, exact)


def weighted(values, weights, exact=False):
    """The Sample of the sum of weight x value over the seeds that all arms have. values: {arm: {seed: value}}."""
    first = values[next(iter(weights))]
    seeds = [seed for seed in first if all(seed in values[arm] for arm in weights)]
    return Sample({seed: float(sum(weight * values[arm][seed] for arm, weight in weights.items())) for seed in seeds}, exact)


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values and its t interval, of this mean alone; no verdict depends on it."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def mean_interval(values, level=LEVEL):
    """The Estimate of the mean of independent values."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]) if n else None, None, None, n)
    half = float(half_width(values.std(ddof=1), n, level))
    mean = float(values.mean())
    return Estimate(mean, mean - half, mean + half, n)


def half_width(sd, n, level=LEVEL):
    """Half the width of the t interval of a mean of n values; arrays broadcast."""
    from scipy.special import stdtrit

    return stdtrit(n - 1, (1 + level) / 2) * sd / np.sqrt(n)


def seeds_to_pass(sample, low, high, word, error):
    """SeedsNeeded until the mean is shown to be above `low` and below `high`, each by a one-sided test at `error`.

    low = -inf or high = inf: only the other side is tested. The joint power of two tests is bounded below by the sum of
    their powers minus one, which errs towards more seeds. None where nothing can be said.
    """
    if not sample.testable:
        return None
    count = lambda sd: _fewest(  # noqa: E731
        lambda n: _detected(n, sample.mean - low, sd, error) + _detected(n, high - sample.mean, sd, error) - 1
    )
    inside = low < sample.mean < high
    ends = _spreads(sample.sd, sample.n)
    counts = [count(sd) if inside else math.inf for sd in (sample.sd, *ends)]
    return SeedsNeeded(word, *(max(each, sample.n + 1) for each in counts))


def _spreads(sd, n):
    """The ends of the interval (SPREAD) of a standard deviation that was estimated from n values."""
    from scipy.special import chdtri

    degrees = n - 1
    return tuple(sd * math.sqrt(degrees / chdtri(degrees, (1 - side * SPREAD) / 2)) for side in (1, -1))


def _detected(n, distance, sd, error):
    """The power of a one-sided t test at level `error`: P(T > critical) for a noncentral T."""
    if math.isinf(distance):
        return 1.0
    from scipy.special import nctdtr, stdtrit

    shift, critical = distance * math.sqrt(n) / sd, stdtrit(n - 1, 1 - error)
    below = float(nctdtr(n - 1, shift, critical))
    # It gives NaN where the probability has no digit left: for shifts far above the critical value, or far below 0.
    return 1.0 - below if math.isfinite(below) else float(shift > critical)


def _fewest(power_of, power=POWER):
    """The smallest n from FEWEST to MOST_SEEDS with power_of(n) >= power, by bisection; infinite if there is none."""
    if not power_of(MOST_SEEDS) >= power:
        return math.inf
    low, high = FEWEST - 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
