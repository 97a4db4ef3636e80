"""Intervals have their coverage, tests keep their level, looks spend what they may, numbers of seeds keep their promise."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from sweeps import stats
from sweeps.looks import ALPHA, levels, looks


def sample(values, exact=False):
    return stats.Sample(dict(enumerate(values)), exact)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_interval_covers_the_true_mean_at_its_level(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, (4000, n))
    half = stats.half_width(values.std(axis=1, ddof=1), n)
    covered = (abs(values.mean(axis=1) - 3.0) <= half).mean()
    assert abs(covered - 0.95) < 0.012
    one = stats.mean_interval(values[0])
    assert one.high - one.mean == pytest.approx(half[0])
    assert sample(values[0]).interval(0.05) == pytest.approx((one.low, one.high))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert stats.mean_interval([2.0]) == stats.Estimate(2.0, None, None, 1)
    assert stats.mean_interval([]) == stats.Estimate(None, None, None, 0)
    single = stats.paired({0: 2.0}, {0: 1.0, 1: 3.0})
    assert (single.mean, single.n, single.sd, single.interval()) == (1.0, 1, None, None)
    assert stats.paired({}, {0: 1.0}).mean is None


def test_a_paired_difference_is_scipys_over_common_seeds():
    random = np.random.default_rng(1)
    a, b = random.normal(size=6), random.normal(size=6)
    difference = stats.paired(dict(enumerate(a)) | {99: 5.0}, dict(enumerate(b)) | {77: 5.0})
    expected = ttest_rel(a, b)
    interval = expected.confidence_interval()
    assert difference.n == 6
    assert 2 * min(difference.p_above(0), difference.p_below(0)) == pytest.approx(expected.pvalue)
    assert difference.interval(0.05) == pytest.approx((interval.low, interval.high))
    for bound in (-0.5, 0.2):
        assert difference.p_above(bound) == pytest.approx(ttest_1samp(a - b, bound, alternative="greater").pvalue)
        assert difference.p_below(bound) == pytest.approx(ttest_1samp(a - b, bound, alternative="less").pvalue)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0] * 5, [1.0, 1.001], [2.0], []])
def test_no_spread_and_two_seeds_decide_nothing(values):
    """Losses that a machine rounds alike have no spread, and two seeds have one degree of freedom."""
    assert sample(values).p_above(-1.0) == sample(values).p_below(9.0) == 1.0
    assert sample(values).interval() is None
    assert stats.seeds_to_pass(sample(values), 0.0, math.inf, "worse", 0.05) is None


def test_exact_numbers_are_compared_without_a_test():
    exact = sample([2.0], exact=True)
    assert (exact.p_above(1.0), exact.p_above(2.0), exact.p_below(3.0)) == (0.0, 1.0, 0.0)
    assert exact.interval() == (2.0, 2.0)


def test_the_looks_and_levels_are_those_of_the_rule():
    assert looks(3, 12) == (3, 5, 8, 12) and looks(3, 20) == (3, 5, 8, 12, 18, 20)
    assert looks(5, 12) == (5, 8, 12) and looks(5, 5) == (5,)
    assert levels((3, 5, 8, 12)) == pytest.approx((0.00078125, 0.00283565, 0.01119792, 0.03518519), abs=1e-8)
    assert levels((3, 5, 8, 12), 4) == pytest.approx((0.00019531, 0.00070891, 0.00279948, 0.00879630), abs=1e-8)
    critical = [
        stats.half_width(1.0, n, 1 - level) * math.sqrt(n) for n, level in zip((3, 5, 8, 12), levels((3, 5, 8, 12)), strict=True)
    ]
    assert critical == pytest.approx([35.756, 6.533, 3.416, 2.401], abs=1e-3)


@pytest.mark.parametrize("numbers", [(5,), (3, 5, 8, 12), (5, 8, 12), tuple(range(3, 40))])
@pytest.mark.parametrize("questions", [1, 4, 7])
def test_the_levels_add_up_to_the_whole(numbers, questions):
    assert sum(levels(numbers, questions)) == pytest.approx(ALPHA / questions)
    assert all(level > 0 for level in levels(numbers, questions))


def test_reading_at_every_look_keeps_the_level():
    random, numbers = np.random.default_rng(2), (3, 5, 8, 12)
    draws = random.normal(0, 1, (40_000, 12))
    wrong = np.zeros(len(draws), dtype=bool)
    for n, level in zip(numbers, levels(numbers), strict=True):
        seen = draws[:, :n]
        wrong |= abs(seen.mean(axis=1)) > stats.half_width(seen.std(axis=1, ddof=1), n, 1 - level)
    assert 0.038 < wrong.mean() < 0.050


def test_the_heaviest_seed_is_named():
    assert sample([0.0, 0.0, 0.0, 0.0, 5.0]).heaviest() == (4, pytest.approx(0.8))
    assert sample([1.0, 1.0, 1.0]).heaviest() is None


@pytest.mark.parametrize("mean", [0.5, 0.8, 1.5])
def test_seeds_for_a_difference_have_the_promised_power(mean):
    values = np.array([-1.0, 0.0, 1.0]) + mean  # sd 1
    needed = stats.seeds_to_pass(sample(values), 0.0, math.inf, "worse", 0.025)
    assert needed.word == "worse" and needed.low <= needed.seeds <= needed.high

    def found(n):
        draws = np.random.default_rng(4).normal(mean, 1.0, (4000, n))
        return (draws.mean(axis=1) > stats.half_width(draws.std(axis=1, ddof=1), n)).mean()

    assert found(int(needed.seeds)) > 0.78
    assert needed.seeds == 4 or found(int(needed.seeds) - 1) < 0.82


def test_seeds_for_equivalence():
    values = 0.01 * np.array([-1.0, 0.0, 1.0])
    n = int(stats.seeds_to_pass(sample(values), -0.01, 0.01, "no difference", 0.05).seeds)
    draws = np.random.default_rng(5).normal(0, 0.01, (4000, n))
    half = stats.half_width(draws.std(axis=1, ddof=1), n, 0.90)
    assert (abs(draws.mean(axis=1)) + half < 0.01).mean() == pytest.approx(0.8, abs=0.06)
    assert stats.seeds_to_pass(sample(values + 0.02), -0.01, 0.01, "no difference", 0.05).seeds == math.inf
    assert stats.seeds_to_pass(sample(values * 1000 + 1e-6), 0.0, math.inf, "worse", 0.05).seeds == math.inf


def test_a_difference_that_no_float_can_show_is_still_shown():
    """Two seeds over two texts may give an interval of 1,800 nats."""
    from analysis.shown import Shown
    from arch import units
    from experiments.metrics import NEXT_TOKEN

    shown = Shown("report/loss", NEXT_TOKEN["loss"])
    for difference in (1871.6, -1871.6, 700.0):
        assert shown.change_interval(shown.effect(-difference), shown.effect(difference))
        assert shown.change(shown.effect(difference)) and not math.isnan(shown.headline(difference))
    assert shown.change(shown.effect(1871.6)) == f">+999,999{units.SPACE}%"
