"""Words around numbers: intervals, p values, numbers of seeds, lists and plurals. Numbers themselves: `arch.units`."""

import math

from arch.units import DASH, absent, number, signed_percent


def interval(low, high, digits=4):
    """`[11.20, 11.90]`; a dash if there is no interval."""
    return DASH if absent(low) or absent(high) else f"[{number(low, digits)}, {number(high, digits)}]"


def percent_interval(low, high):
    """`[-0.50, +1.23]` (with a true minus sign): percent, without the unit; a dash if there is no interval."""
    return DASH if absent(low) or absent(high) else f"[{signed_percent(low)}, {signed_percent(high)}]"


def p_value(p):
    """A p value with two decimals, with three below 0.1, and `<0.001` below 0.001."""
    if absent(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeds(count):
    """A number of seeds; `>1000` (stats.MOST_SEEDS) for infinity."""
    from analysis.stats import MOST_SEEDS

    return DASH if absent(count) else f">{MOST_SEEDS}" if math.isinf(count) else f"{count:.0f}"


def listed(words, last="and"):
    """`a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def times(count, noun):
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
