"""How a metric is named and printed: its headline number, a difference from the baseline, axis labels.

Numbers come on the scale of `sweeps.compare`: a mean over seeds and its interval are formed there.
"""

from dataclasses import dataclass

from arch import units
from arch.contracts import Metric
from experiments.metrics import is_measured_once, title
from sweeps import compare

# How a number with this unit is printed, with its unit and an SI prefix; other numbers as they are.
PRINTED = {
    "B": units.size,
    "FLOP": units.flops,
    "FLOP per token": units.flops,
    "parameters": units.count,
}


@dataclass(frozen=True)
class Shown:
    """The metric `name` (SPLIT/METRIC) for reading."""

    name: str
    metric: Metric

    @property
    def split(self):
        """The split that the metric is of."""
        return self.name.rpartition("/")[0]

    @property
    def short(self):
        """The metric's name in a sentence: as it is recorded, `loss`, or its title, `peak memory`."""
        return title(self.name) or self.name.rpartition("/")[2].replace("_", " ")

    @property
    def quantity(self):
        """What the headline number is: `perplexity` for a loss with that exponential, else the metric itself."""
        return self.metric.exponential or self.short

    @property
    def relative(self):
        """Whether differences are shown in percent."""
        return compare.is_relative(self.metric)

    def headline(self, scaled):
        """The number to show for a value on the scale: e^value for a metric with an exponential. None stays None."""
        if scaled is not None and self.metric.exponential:
            return compare.exp(scaled)
        return compare.off_scale(scaled, self.metric)

    def effect(self, difference):
        """The number to show for a difference on the scale: percent, or in the metric's unit. None stays None."""
        effect = compare.effect(difference, self.metric)
        return None if effect is None else 100 * effect if self.relative else effect

    def number(self, value):
        """A value of the metric as text: `3.092`, `734 MB`; a dash for None."""
        return PRINTED.get(self.metric.unit, units.number)(value)

    def interval(self, low, high):
        """`[11.20, 11.90]` in the same way; a dash if there is no interval."""
        return units.DASH if units.absent(low) or units.absent(high) else f"[{self.number(low)}, {self.number(high)}]"

    @property
    def unit(self):
        """The unit of an effect."""
        return "%" if self.relative else self.metric.unit

    def change(self, effect):
        """An effect as text with its unit: `+1.23 %`."""
        if units.absent(effect):
            return units.DASH
        if self.relative:
            return units.percent(effect / 100)
        return f"{units.signed(effect)}{units.SPACE}{self.unit}".rstrip(units.SPACE)

    def change_interval(self, low, high):
        """An interval of effects without the unit: `[+0.50, +1.23]`; a dash if there is none."""
        if units.absent(low) or units.absent(high):
            return units.DASH
        return units.percent_interval(low / 100, high / 100) if self.relative else units.signed_interval(low, high)

    def margin(self, margin):
        """The largest effect that does not matter, as text."""
        return compare.margin_text(margin, self.metric)

    @property
    def better(self):
        """`lower is better`, or the opposite; empty if neither side is better."""
        return "" if self.metric.better == "neither" else f"{self.metric.better} is better"

    @property
    def on_the_right(self):
        """What lies right of the baseline: `right is worse`; empty if neither side is better."""
        return {"lower": "right is worse", "higher": "right is better"}.get(self.metric.better, "")

    def axis(self, baseline):
        """The label of an axis of effects: `perplexity against 1:1, %`."""
        return ", ".join(filter(None, [f"{self.quantity} against {baseline}", self.unit]))

    @property
    def values(self):
        """The label of an axis of the metric itself, before any exponential: `loss on the select split, nats per token`."""
        where = "" if is_measured_once(self.name) else f" on the {self.split} split"
        unit = "" if self.metric.unit in PRINTED else self.metric.unit
        return ", ".join(filter(None, [f"{self.short}{where}", unit]))
