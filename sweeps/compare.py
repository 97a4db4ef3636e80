"""How two values of a metric are compared: the arithmetic behind `arch.contracts.Metric.compare`.

Differences are taken on a *scale*: the natural logarithm for `ratio`, the value itself otherwise. So for `log` and
`ratio` a difference is in nats, and its *effect* is relative: e^d - 1. For `difference` both are in the metric's unit.
"""

import math
from collections.abc import Callable

from arch import units
from arch.contracts import Metric
from arch.errors import DataError


def on_scale(value: float, metric: Metric) -> float:
    """A value on the scale on which differences are taken. Raises DataError for a ratio of what is not positive."""
    if metric.compare != "ratio":
        return value
    if value <= 0:
        raise DataError(f"a metric that is compared by ratio has the value {value:g}; expected one above 0", key=None)
    return math.log(value)


def off_scale(value: float | None, metric: Metric) -> float | None:
    """The inverse of `on_scale`. None stays None."""
    return exp(value) if value is not None and metric.compare == "ratio" else value


def is_relative(metric: Metric) -> bool:
    """Whether an effect is a fraction (0.01 is 1 %) and not in the metric's unit."""
    return metric.compare != "difference"


def effect(difference: float | None, metric: Metric) -> float | None:
    """What a difference on the scale is shown as. None stays None."""
    return exp(difference, math.expm1) if difference is not None and is_relative(metric) else difference


def exp(value: float, function: Callable[[float], float] = math.exp) -> float:
    """e ** value; infinite where no number is as large: the end of an interval of few seeds may lie there."""
    try:
        return function(value)
    except OverflowError:
        return math.inf


def bounds(margin: float, metric: Metric) -> tuple[float, float]:
    """The differences on the scale whose effects are -margin and +margin."""
    if not is_relative(metric):
        return -margin, margin
    return (math.log1p(-margin) if margin < 1 else -math.inf), math.log1p(margin)


def harm(difference: float, metric: Metric) -> float:
    """A difference with the sign that makes worse positive. Raises DataError for a metric without a better side."""
    if metric.better == "neither":
        raise DataError("neither side of this metric is better; it is only shown", key=None)
    return difference if metric.better == "lower" else -difference


def margin_text(margin: float, metric: Metric) -> str:
    """A margin for reading: `1 %`, or in the metric's unit."""
    return units.share(margin) if is_relative(metric) else f"{margin:g}{units.SPACE}{metric.unit}".rstrip(units.SPACE)


def at_harm(effect, metric):
    """The difference on the scale of an effect that is `effect` worse (below 0: better)."""
    if metric.better == "neither":
        raise DataError("neither side of this metric is better; it is only shown", key=None)
    side = effect if metric.better == "lower" else -effect
    if not is_relative(metric):
        return side
    return math.log1p(side) if side > -1 else -math.inf


def log_ratio(value):
    """The difference on the scale of a ratio of two values. Raises DataError unless it is above 0."""
    if value <= 0:
        raise DataError(f"a ratio of {value:g}; expected one above 0", key=None)
    return math.log(value)


def effect_text(difference, metric):
    """A difference on the scale as text with its unit: `+1.23 %`."""
    value = effect(difference, metric)
    if value is None or not is_relative(metric):
        return f"{units.signed(value)}{units.SPACE}{metric.unit}".rstrip(units.SPACE)
    return units.percent(value)


def interval_text(low, high, metric):
    """The ends of an interval on the scale as text without the unit: `[+0.50, +1.23]`."""
    ends = effect(low, metric), effect(high, metric)
    return units.percent_interval(*ends) if is_relative(metric) else units.signed_interval(*ends)
