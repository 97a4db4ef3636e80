"""Samples over seeds: means, t intervals, one-sided t tests, and how many seeds would decide.

Arms share seeds, initial values and batches, so the difference to the baseline is taken seed by seed: the effect of a
seed on both arms cancels. Arms whose seeds are others by plan (`first_seed`) are independent samples: the difference is that
of their means, tested as Welch does (1947, Biometrika 34:28; degrees of freedom of Satterthwaite 1946). A number that does not
exist (such as the spread of one seed) is None.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """One number per seed. exact: the numbers are computed and not measured, so they are compared without a test.

    others: further samples of arms with other seeds, independent of this one. What is tested is then the sum of their means;
    `by_seed` and `values` are of the first one alone.
    """

    by_seed: Mapping[int, float] = field(default_factory=dict)
    exact: bool = False
    others: tuple["Sample", ...] = ()

    @cached_property
    def values(self):
        """The numbers as an array."""
        return np.array(list(self.by_seed.values()), dtype=float)

    @property
    def paired(self):
        """Whether every number is a difference within a seed."""
        return not self.others

    @cached_property
    def parts(self):
        """The independent samples, this one alone among them."""
        return (Sample(self.by_seed, self.exact), *self.others) if self.others else (self,)

    @cached_property
    def n(self):
        """The number of seeds; of independent samples, of the smallest."""
        return min(len(part.by_seed) for part in self.parts)

    @cached_property
    def mean(self):
        """The mean, or None."""
        if not self.n:
            return None
        return float(self.values.mean()) if self.paired else sum(part.mean for part in self.parts)

    @cached_property
    def sd(self):
        """The standard deviation over seeds, or None with fewer than two; of independent samples, of a sum of one of each."""
        if self.n < 2:
            return None
        return float(self.values.std(ddof=1)) if self.paired else math.hypot(*(part.sd for part in self.parts))

    @cached_property
    def error(self):
        """The standard error of the mean, or None with fewer than two seeds."""
        if self.n < 2:
            return None
        return math.hypot(*(part.sd / math.sqrt(part.n) for part in self.parts))

    @cached_property
    def degrees(self):
        """The degrees of freedom of the standard error; of independent samples as Satterthwaite has them."""
        if self.paired or not self.error:
            return self.n - 1
        return self.error**4 / sum((part.sd**2 / part.n) ** 2 / (part.n - 1) for part in self.parts)

    @property
    def testable(self):
        """Whether a test or an interval means anything: enough seeds, and a spread."""
        if self.n < FEWEST:
            return False
        return self.sd > ROUNDING * max(float(abs(part.values).max()) for part in self.parts)

    def less(self, amount):
        """The Sample of which a constant is subtracted."""
        return replace(self, by_seed={seed: each - amount for seed, each in self.by_seed.items()})

    def first(self, n):
        """The Sample of the first `n` seeds, ascending."""
        if n >= max(len(part.by_seed) for part in self.parts):
            return self
        by_seed = {seed: self.by_seed[seed] for seed in sorted(self.by_seed)[:n]}
        return Sample(by_seed, self.exact, tuple(part.first(n) for part in self.others))

    def interval(self, error=ALPHA):
        """(low, high): the two-sided t interval of the mean that misses it with probability `error`; None without one."""
        if self.exact and self.n:
            return self.mean, self.mean
        if not self.testable:
            return None
        half = float(half_width(self.sd, self.n, 1 - error)) if self.paired else self._critical(error) * self.error
        return self.mean - half, self.mean + half

    def _critical(self, error):
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, 1 - error / 2))

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

        if self.others:
            return float(stdtr(self.degrees, -distance / self.error))
        return float(stdtr(self.n - 1, -distance * math.sqrt(self.n) / self.sd))

    def heaviest(self):
        """(seed, share): the seed with the largest part of the variance, or None without a spread.

        None, too, where no number is of one seed alone.
        """
        if not self.testable or self.others:
            return None
        squares = (self.values - self.mean) ** 2
        i = int(squares.argmax())
        return list(self.by_seed)[i], float(squares[i] / squares.sum())


def paired(arm, baseline, exact=False):
    """The Sample of arm minus baseline, two mappings {seed: value}, over the seeds that both have."""
    return Sample({seed: float(arm[seed] - baseline[seed]) for seed in arm if seed in baseline}, exact)


def weighted(values, weights, exact=False, first_seeds=None):
    """The Sample of the sum of weight x value over the seeds that all arms have. values: {arm: {seed: value}}.

    first_seeds: {arm: the first of its seeds}, if not 0. Arms with different ones have no seed in common: each group of arms
    that share their seeds then is an independent sample of the sum over the group. Exact numbers are the same for every seed.
    """
    if exact and len({(first_seeds or {}).get(arm, 0) for arm in weights}) > 1:
        values = {arm: dict(enumerate(values[arm].values())) for arm in weights}
    groups: dict[int, dict[str, float]] = {}
    for arm, weight in weights.items():
        groups.setdefault(0 if exact or not first_seeds else first_seeds.get(arm, 0), {})[arm] = weight
    one, *others = (_within(values, group, exact) for group in groups.values())
    return replace(one, others=tuple(others)) if others else one


def less(one, other, independent):
    """The Sample of one Sample minus another; independent: whether their seeds are others by plan."""
    if independent:
        return replace(one, others=(Sample({seed: -each for seed, each in other.by_seed.items()}),))
    return paired(one.by_seed, other.by_seed)


def _within(values, weights, exact):
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


def half_width(sd, n, level=LEVEL, degrees=None):
    """Half the width of the t interval of a mean of n values; arrays broadcast. degrees: of freedom, by default n - 1."""
    from scipy.special import stdtrit

    return stdtrit(n - 1 if degrees is None else degrees, (1 + level) / 2) * sd / np.sqrt(n)


def seeds_to_pass(sample, low, high, word, error):
    """SeedsNeeded until the mean is shown to be above `low` and below `high`, each by a one-sided test at `error`.

    low = -inf or high = inf: only the other side is tested. The joint power of two tests is bounded below by the sum of
    their powers minus one, which errs towards more seeds. None where nothing can be said.
    """
    if not sample.testable:
        return None
    each = sample.degrees / (sample.n - 1)  # degrees of freedom per further seed: up to two of two independent samples
    count = lambda sd: _fewest(  # noqa: E731
        lambda n: _detected(n, sample.mean - low, sd, error, each) + _detected(n, high - sample.mean, sd, error, each) - 1
    )
    inside = low < sample.mean < high
    ends = _spreads(sample.sd, sample.degrees)
    counts = [count(sd) if inside else math.inf for sd in (sample.sd, *ends)]
    return SeedsNeeded(word, *(max(number, sample.n + 1) for number in counts))


def _spreads(sd, degrees):
    """The ends of the interval (SPREAD) of a standard deviation that was estimated with so many degrees of freedom."""
    from scipy.special import chdtri

    return tuple(sd * math.sqrt(degrees / chdtri(degrees, (1 - side * SPREAD) / 2)) for side in (1, -1))


def _detected(n, distance, sd, error, each=1):
    """The power of a one-sided t test at level `error`: P(T > critical) for a noncentral T.

    each: the degrees of freedom that a seed adds.
    """
    if math.isinf(distance):
        return 1.0
    from scipy.special import nctdtr, stdtrit

    degrees = each * (n - 1)
    shift, critical = distance * math.sqrt(n) / sd, stdtrit(degrees, 1 - error)
    below = float(nctdtr(degrees, shift, critical))
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
