"""Numbers with units, for reading: the one place that decides how a size, a count or a time is printed.

Decimal (SI) units everywhere: 1 kB is 1,000 bytes. Three significant digits. Counts without a unit (parameters, tokens)
use the field's k, M, B and T. A space before a unit is a no-break space; the minus sign is the true one, as wide as a
plus sign. `DASH` stands for a missing number (None or NaN).
"""

import math

DASH = "–"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

Number = float | int | None

LARGE = ("", "k", "M", "G", "T", "P", "E", "Z")
COUNTS = ("", "k", "M", "B", "T", "Qd")


# From here on a number has an exponent: what is that long is no measurement, but the end of an interval over too few seeds.
HUGE = 1e15


def absent(value: object) -> bool:
    """Whether a value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Number, digits: int = 4) -> str:
    """A number to `digits` significant digits: `3,092`, `0.01230`; with an exponent only from 10^15 on."""
    if value is None or math.isnan(value):
        return DASH
    if abs(value) >= HUGE:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    decimals = max(0, digits - 1 - _exponent(value, digits)) if value else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def cell(value: object) -> str:
    """A value of a table: numbers as `number` has them, whole ones without decimals, anything else as text."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else number(value)
    return f"{value:,}" if type(value) is int else str(value)


def scaled(value: Number, unit: str, digits: int = 3) -> str:
    """A quantity with the SI prefix that leaves 1 to 3 digits before the point: `12.3 MFLOP`."""
    return _scaled(value, LARGE, unit, digits)


def signed(value: Number, digits: int = 3) -> str:
    """A difference with its sign: `+0.0123`."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def interval(low: Number, high: Number, digits: int = 4) -> str:
    """`[11.20, 11.90]`; a dash if there is no interval."""
    return DASH if absent(low) or absent(high) else f"[{number(low, digits)}, {number(high, digits)}]"


def signed_interval(low: Number, high: Number, digits: int = 3) -> str:
    """`[-0.50, +1.23]` (with a true minus sign); a dash if there is no interval."""
    return DASH if absent(low) or absent(high) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def count(value: Number, digits: int = 3) -> str:
    """A count: `999`, `1.80 M`, `27.0 B`."""
    return _scaled(value, COUNTS, "", digits)


def size(value: Number, digits: int = 3) -> str:
    """Bytes: `999 B`, `1.00 kB`, `146 MB`."""
    return scaled(value, "B", digits)


def flops(value: Number) -> str:
    """Floating-point operations: `12.3 GFLOP`."""
    return scaled(value, "FLOP")


def exactly(text: str, value: Number) -> str:
    """`1.80 M (1,803,264)`: a rounded number with the exact one in brackets, where the two differ."""
    if value is None or math.isnan(value) or abs(value) < 1000:
        return text
    return f"{text} ({value:,})" if isinstance(value, int) else f"{text} ({value:,.1f})"


def context(tokens: int) -> str:
    """A number of tokens in a row: `131,072 tokens`."""
    return f"{tokens:,}{SPACE}tokens"


def duration(seconds: Number) -> str:
    """A time: `1.20 ms`, `45.1 s`, `12 min`, `3 h 05 min`."""
    if seconds is None or math.isnan(seconds):
        return DASH
    if 0 < seconds < 0.9995:
        return _scaled(1e9 * seconds, ("n", "µ", "m"), "s", 3)
    if seconds < 599.5:
        return scaled(seconds, "s")
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes}{SPACE}min"
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60:02d}{SPACE}min"


# The end of an interval of few seeds may be any number, also infinite.
MOST_PERCENT = 999_999


def percent(fraction: Number) -> str:
    """A relative difference, with its sign: 0.0123 is `+1.23 %`."""
    return DASH if fraction is None or math.isnan(fraction) else f"{_percent(fraction)}{SPACE}%"


def percent_interval(low: Number, high: Number) -> str:
    """`[-0.50, +1.23]` (with a true minus sign): percent, without the unit; a dash if there is no interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return DASH
    return f"[{_percent(low)}, {_percent(high)}]"


def share(fraction: float) -> str:
    """A margin or a level, without a sign: 0.01 is `1 %`."""
    return f"{100 * fraction:.3g}{SPACE}%"


def p_value(p: Number) -> str:
    """A p value with two decimals, with three below 0.1, and `<0.001` below 0.001."""
    if p is None or math.isnan(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _percent(fraction: float) -> str:
    """Two decimals near zero, none for large values, where decimals are noise; `>+999,999` for those that mean nothing."""
    percents = 100 * fraction
    if percents > MOST_PERCENT:
        return f">+{MOST_PERCENT:,}"
    decimals = 2 if abs(percents) < 9.995 else 1 if abs(percents) < 99.95 else 0
    return f"{percents:+,.{decimals}f}".replace("-", MINUS)


def _exponent(value: float, digits: int) -> int:
    """The decimal exponent of a number rounded to `digits` digits: 999.9 to 3 digits is 1.00e+03, so 3."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _scaled(value: Number, prefixes: tuple[str, ...], unit: str, digits: int) -> str:
    """The prefix is chosen after rounding, so that 999,885,952 is 1.00 G and never 1000 M."""
    if value is None or math.isnan(value):
        return DASH
    power = min(max(0, _exponent(value, digits) // 3), len(prefixes) - 1)
    exact = not power and value == int(value)  # a whole number below 1000 stays whole: `5 B`, not `5.00 B`
    text = number(value / 1000**power, len(str(int(abs(value)))) if exact else digits)
    return f"{text}{SPACE}{prefixes[power]}{unit}".rstrip(SPACE)
