"""What a plan of seeds can find, before anything is trained: the power of its looks, by simulation.

Everything is in *paired standard deviations*: the spread over seeds of the difference between an arm and the baseline. Where
two arms have other seeds (`first_seed`), it is in standard deviations of the difference of two such runs.
An arm is found at the first look at which the interval of its level excludes zero, as `sweeps.claims.equivalent` does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sweeps.looks import levels
from sweeps.stats import FEWEST, POWER, half_width

EFFECTS = (1.0, 2.0, 3.0)
STUDIES = 10_000
# Normal numbers that are drawn at most; a plan of many seeds is simulated with fewer studies, at least LEAST.
NUMBERS, LEAST = 2_000_000, 1000
SEED = 0
# The largest effect that is searched: a plan that cannot find it finds nothing.
LARGEST = 1000.0


@dataclass(frozen=True)
class Power:
    """What a plan finds. looks, questions: the plan. studies: how many were simulated.

    found: {effect: the chance that an arm which differs by so many paired standard deviations is found so, on the right
    side, by the last look}. seeds: {effect: how many seeds it then has on average}. smallest: the smallest effect that is
    found with a chance of 80 %; infinite if there is none. same, same_seeds: the chance that an identical arm is shown to be
    within the margin, if the control is found, and its seeds; None without a margin.
    """

    looks: tuple[int, ...]
    questions: int
    studies: int
    found: Mapping[float, float]
    seeds: Mapping[float, float]
    smallest: float
    same: float | None = None
    same_seeds: float | None = None


def power(looks, questions, effects=EFFECTS, margin=None, paired=True):
    """The Power of a plan. looks: numbers of seeds. margin: in paired standard deviations. paired: whether the arms share seeds.

    The random numbers are always the same, so that two plans can be compared.
    """
    looks = tuple(looks)
    studies = _studies(looks[-1])
    results = {effect: _ends(looks, questions, effect, paired=paired) for effect in effects}
    same, same_seeds = (None, None) if margin is None else _ends(looks, questions, 0.0, margin, paired=paired)
    return Power(
        looks,
        questions,
        studies,
        {effect: chance for effect, (chance, _) in results.items()},
        {effect: seeds for effect, (_, seeds) in results.items()},
        _smallest(looks, questions, paired),
        same,
        same_seeds,
    )


def _studies(seeds):
    return int(min(STUDIES, max(LEAST, NUMBERS // seeds)))


@lru_cache(maxsize=8)
def _samples(looks, paired):
    """(means, standard deviations, degrees of freedom) of noise at each look, arrays looks x studies."""
    random, shape = np.random.default_rng(SEED), (_studies(looks[-1]), looks[-1])
    if paired:
        means, spread = _moments(random.normal(size=shape), looks)
        return means, spread, np.broadcast_to(np.array(looks)[:, None] - 1, means.shape)
    (mean, sd), (other, its_sd) = (_moments(random.normal(size=shape) / math.sqrt(2), looks) for _ in range(2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = sd**2 / (sd**2 + its_sd**2)
        degrees = (np.array(looks)[:, None] - 1) / (share**2 + (1 - share) ** 2)  # Satterthwaite, of as many seeds each
    return mean - other, np.hypot(sd, its_sd), degrees


def _moments(draws, looks):
    sums, squares = np.cumsum(draws, axis=1), np.cumsum(draws**2, axis=1)
    n = np.array(looks)
    means = sums[:, n - 1] / n
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((squares[:, n - 1] - n * means**2) / (n - 1))
    return means.T, spread.T


def _ends(looks, questions, effect, margin=None, paired=True):
    """(chance, mean seeds) of an arm with an effect: to be found; with a margin: to be shown to be within it.

    The first word stays: an arm that was found to differ is not shown to be within the margin later.
    """
    means, spreads, freedom = _samples(looks, paired)
    open_ones = np.ones(means.shape[1], dtype=bool)
    right, seeds = 0, np.full(means.shape[1], looks[-1], dtype=float)
    for n, level, mean, spread, degrees in zip(looks, levels(looks, questions), means + effect, spreads, freedom, strict=True):
        if n < FEWEST:
            continue
        outer = half_width(spread, n, 1 - level, degrees)
        differs = abs(mean) > outer
        if margin is None:
            inside, wanted = np.zeros_like(differs), differs & (mean > 0)
        else:
            inside = abs(mean) + half_width(spread, n, 1 - 2 * level, degrees) < margin
            wanted = inside
        right += int((open_ones & wanted).sum())
        now = open_ones & (differs | inside)
        seeds[now] = n
        open_ones &= ~now
    return right / means.shape[1], float(seeds.mean())


def _smallest(looks, questions, paired):
    """The smallest effect that is found with a chance of POWER, by bisection; infinite if there is none."""
    low, high = 0.0, 1.0
    while _ends(looks, questions, high, paired=paired)[0] < POWER:
        low, high = high, 2 * high
        if high > LARGEST:
            return math.inf
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _ends(looks, questions, middle, paired=paired)[0] >= POWER else (middle, high)
    return high
