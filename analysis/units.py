"""Numbers formatted for reading. `DASH` stands for a missing number.

Spaces before units are no-break spaces; the minus sign is the true one, as wide as a plus sign.
"""

import math

DASH = "–"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def absent(value):
    """Whether a value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value, digits=4):
    """A number to `digits` significant digits, without an exponent."""
    if absent(value):
        return DASH
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def scaled(value, unit="", digits=3):
    """A count in powers of 1000: `1.80 M`, `12.3 MFLOP`."""
    if absent(value):
        return DASH
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{number(value / 10**power, digits)}{SPACE}{prefix}{unit}"
    return f"{number(value, digits)}{SPACE}{unit}".rstrip()


def size(count):
    """Bytes in powers of 1024, with the binary unit: `3.20 MiB`."""
    if absent(count):
        return DASH
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{number(count / 1024**power, 3)}{SPACE}{unit}"
    return f"{count:.0f}{SPACE}B"


def tokens(count):
    """A context length: `128 Ki tokens` for multiples of 1024, else `1,000 tokens`."""
    if count >= 1024 and count % 1024 == 0:
        return f"{count // 1024:,}{SPACE}Ki tokens"
    return f"{count:,} tokens"


def percent(fraction):
    """A relative difference: 0.0123 is `+1.23 %`."""
    return DASH if absent(fraction) else f"{_percent(fraction)}{SPACE}%"


def share(fraction):
    """A margin or a level, without a sign: 0.01 is `1 %`."""
    return f"{100 * fraction:.3g}{SPACE}%"


def percent_interval(low, high):
    """`[-0.50, +1.23]` (with a true minus sign): percent, without the unit; a dash if there is no interval."""
    if absent(low) or absent(high):
        return DASH
    return f"[{_percent(low)}, {_percent(high)}]"


def interval(low, high, digits=4):
    """`[11.20, 11.90]`; a dash if there is no interval."""
    return DASH if absent(low) or absent(high) else f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(p):
    """A p value with two decimals, with three below 0.1, and `<0.001` below 0.001."""
    if absent(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeds(count):
    """A number of seeds; `>1000` (stats.MOST_SEEDS) for infinity."""
    from analysis.stats import MOST_SEEDS

    return DASH if absent(count) else f">{MOST_SEEDS}" if math.isinf(count) else f"{count:.0f}"


def duration(seconds):
    """`45 s`, `12 min`, `3 h 05 min`."""
    if absent(seconds):
        return DASH
    if seconds < 100:
        return f"{seconds:.0f}{SPACE}s"
    if seconds < 5400:
        return f"{seconds / 60:.0f}{SPACE}min"
    return f"{int(seconds // 3600)}{SPACE}h{SPACE}{int(seconds % 3600 // 60):02d}{SPACE}min"


def listed(words, last="and"):
    """`a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def times(count, noun):
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _percent(fraction):
    percents = 100 * fraction
    # Two decimals near zero, none for large values, where decimals are noise.
    decimals = 2 if abs(percents) < 10 else 1 if abs(percents) < 100 else 0
    return f"{percents:+,.{decimals}f}".replace("-", MINUS)
