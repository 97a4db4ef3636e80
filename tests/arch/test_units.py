"""One unit system: three significant digits, a decimal prefix that is chosen after rounding."""

import math
import random

import pytest

from arch import units


def plain(text):
    return text.replace(units.SPACE, " ")


@pytest.mark.parametrize(
    ("value", "size", "count"),
    [
        (0, "0 B", "0"),
        (5, "5 B", "5"),
        (999, "999 B", "999"),
        (999.6, "1.00 kB", "1.00 k"),
        (1000, "1.00 kB", "1.00 k"),
        (1024, "1.02 kB", "1.02 k"),
        (146_000_000, "146 MB", "146 M"),
        (999_499_999, "999 MB", "999 M"),
        (999_885_952, "1.00 GB", "1.00 B"),
        (27_009_002_240, "27.0 GB", "27.0 B"),
        (-1_234_567, f"{units.MINUS}1.23 MB", f"{units.MINUS}1.23 M"),
        (None, units.DASH, units.DASH),
        (math.nan, units.DASH, units.DASH),
    ],
)
def test_sizes_and_counts_at_boundaries(value, size, count):
    assert plain(units.size(value)) == size and plain(units.count(value)) == count


def test_a_number_has_three_digits_and_is_never_off_by_more_than_its_rounding():
    draw, powers = random.Random(0), {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    for _ in range(2000):
        value = 10 ** draw.uniform(0, 17.9)
        text, _, unit = plain(units.scaled(value, "FLOP")).partition(" ")
        assert len(text.replace(".", "")) == 3 and "e" not in text and "," not in text
        assert float(text) * powers[unit.removesuffix("FLOP")] == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.5e-7, "250 ns"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (59.96, "60.0 s"),
        (599, "599 s"),
        (600, "10 min"),
        (3600, "60 min"),
        (11_100, "3 h 05 min"),
        (7199.9, "2 h 00 min"),
        (None, units.DASH),
    ],
)
def test_durations(seconds, text):
    assert plain(units.duration(seconds)) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0123, "+1.23 %"),
        (0.09999, "+10.0 %"),
        (0.9999, "+100 %"),
        (-0.05, f"{units.MINUS}5.00 %"),
        (None, units.DASH),
        (1e250, ">+999,999 %"),
        (float("inf"), ">+999,999 %"),
    ],
)
def test_percents(fraction, text):
    assert plain(units.percent(fraction)) == text
    assert fraction is None or plain(units.percent_interval(-0.5, fraction)).endswith(f"{text.removesuffix(' %')}]")


def test_numbers_without_a_unit_keep_their_digits():
    assert [units.number(value) for value in (0, 999.96, 0.0123, 3092.4)] == ["0", "1,000", "0.01230", "3,092"]
    assert plain(units.exactly(units.count(1_803_264), 1_803_264)) == "1.80 M (1,803,264)"


def test_the_end_of_an_interval_over_too_few_seeds_is_short():
    assert units.number(1.0142e304) == "1.014e+304" and units.number(float("inf")) == "inf"
    assert units.percent_interval(-0.5, 1.0142e304) == f"[{units.MINUS}50.0, >+999,999]"
