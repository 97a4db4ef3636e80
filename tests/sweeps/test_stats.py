"""Intervals have their coverage, tests keep their level, corrections match the textbook."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from sweeps import stats


def as_seeds(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("n", [2, 5, 20])
def test_interval_covers_the_true_mean_at_its_level(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, (4000, n))
    half = stats.half_width(values.std(axis=1, ddof=1), n)
    covered = (abs(values.mean(axis=1) - 3.0) <= half).mean()
    assert abs(covered - 0.95) < 0.012
    one = stats.mean_interval(values[0])
    assert one.high - one.mean == pytest.approx(half[0])


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert stats.mean_interval([2.0]) == stats.Estimate(2.0, None, None, 1)
    assert stats.mean_interval([]) == stats.Estimate(None, None, None, 0)
    single = stats.paired_difference({0: 2.0}, {0: 1.0, 1: 3.0})
    assert (single.mean, single.n, single.low, single.p) == (1.0, 1, None, None)


def test_paired_difference_is_scipys_over_common_seeds():
    random = np.random.default_rng(1)
    a, b = random.normal(size=6), random.normal(size=6)
    difference = stats.paired_difference(as_seeds(a) | {99: 5.0}, as_seeds(b) | {77: 5.0})
    expected = ttest_rel(a, b)
    interval = expected.confidence_interval()
    assert difference.n == 6
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def test_no_spread_is_no_division_by_zero():
    same = stats.paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert stats.equivalence_p(same, -0.01, 0.01) == 0
    shifted = stats.paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert shifted.p == 0 and stats.equivalence_p(shifted, -0.01, 0.01) == 1
    assert stats.seeds_for_difference(0, 0) == math.inf


def test_holm_is_the_textbooks():
    random = np.random.default_rng(2)
    for _ in range(50):
        p = random.uniform(size=6) ** 3
        order = np.argsort(p)
        # Reject the k smallest as long as p_(k) <= alpha / (m - k + 1): the same decisions at every alpha.
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for k, i in enumerate(order):
                if p[i] > alpha / (len(p) - k):
                    break
                rejected.add(i)
            assert rejected == {i for i, adjusted in enumerate(stats.holm(list(p))) if adjusted <= alpha}


def test_holm_ignores_what_was_not_tested():
    assert stats.holm([0.01, None, 0.03]) == [0.02, None, 0.03]
    assert stats.holm([]) == []


def test_equivalence_keeps_its_level_at_the_margin_and_has_power_inside():
    random, margin = np.random.default_rng(3), 0.01

    def passed(mean):
        draws = random.normal(mean, 0.005, (1500, 5))
        p = [stats.equivalence_p(stats.paired_difference(as_seeds(d), as_seeds(0 * d)), -margin, margin) for d in draws]
        return np.mean(np.array(p) < 0.05)

    assert passed(margin) < 0.07
    # The power that docs/design.md states for five seeds and a margin of two paired standard deviations.
    assert passed(0.0) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("mean", [0.3, 0.8, 1.5])
def test_seeds_for_a_difference_have_the_promised_power(mean):
    n = stats.seeds_for_difference(mean, 1.0)

    def found(n):
        draws = np.random.default_rng(4).normal(mean, 1.0, (4000, n))
        half = stats.half_width(draws.std(axis=1, ddof=1), n)
        return (abs(draws.mean(axis=1)) > half).mean()

    assert found(n) > 0.78
    assert found(n - 1) < 0.82


def test_seeds_for_equivalence():
    n = stats.seeds_for_equivalence(0.0, 0.01, -0.01, 0.01)
    draws = np.random.default_rng(5).normal(0, 0.01, (4000, n))
    half = stats.half_width(draws.std(axis=1, ddof=1), n, 0.90)
    assert (abs(draws.mean(axis=1)) + half < 0.01).mean() == pytest.approx(0.8, abs=0.06)
    assert stats.seeds_for_equivalence(0.02, 0.01, -0.01, 0.01) == math.inf
    assert stats.seeds_for_difference(1e-6, 1.0) == math.inf
