"""The panels of a chart's figure and their axes: how many beside each other, scales, ticks, names."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, NullLocator

from analysis.drawing import MUTED, WIDTH
from analysis.evaluated import label
from arch import units
from arch.contracts import Chart

# Points of a line that are marked: a line of one point would not be seen, and few points are the measured ones.
MARKED = 12
INCHES_PER_LETTER = 0.082  # at the font sizes used here


def columns_of(axes: Axes) -> int:
    """How many panels of its figure stand beside each other."""
    place = axes.get_subplotspec()
    return place.get_gridspec().ncols if place else 1


def panels_of(count: int, columns: int | None = None, tall: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of this many panels, and the panels row by row."""
    if columns is None:
        columns = count if count <= 3 else 2 if count == 4 else 3 if count <= 9 else 4 if count <= 20 else 5
    rows = math.ceil(count / columns)
    heights = {1: 3.7, 2: 2.7, 3: 2.0, 4: 1.55, 5: 1.25}
    layout = ConstrainedLayoutEngine(wspace=0.04, hspace=0.03)
    figure = Figure(figsize=(WIDTH, tall or heights[columns] * rows + 0.75), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False)
    every = list(grid.ravel())
    for axes in every[count:]:
        axes.remove()
    for axes in every[:count]:
        axes.tick_params(labelsize=9 if columns < 3 else 8)
    return figure, every[:count]


def finish(figure: Figure, panels: list[Axes], chart: Chart, drawn: dict[str, pd.DataFrame]) -> None:
    """Scales, limits, ticks and names of the axes. Panels share the x axis, and the y axis if no panel would look flat on it."""
    columns = columns_of(panels[0])
    across = ["x", "to"] if chart.kind == "histogram" else ["x"]
    x = np.unique(np.concatenate([rows[column] for rows in drawn.values() for column in across]))
    room = ((WIDTH - 0.7) / columns - 0.35) / (INCHES_PER_LETTER * max(len(number_text(value)) for value in x) + 0.16)
    heights = [np.concatenate([line.get_ydata() for line in axes.get_lines()]) for axes in panels]
    shared = _share(heights, chart)
    for i, axes in enumerate(panels):
        _scale(axes, "x", chart.x, chart, x, room)
        _scale(axes, "y", chart.y, chart, np.concatenate(heights) if shared else heights[i], 6 if columns < 3 else 4)
        if chart.kind == "histogram" and chart.y not in chart.log:
            axes.set_ylim(0, None)
        axes.tick_params(labelbottom=i + columns >= len(panels), labelleft=not shared or i % columns == 0)
    for which in ("x", "y") if shared else ("x",):
        limits = [getattr(axes, f"get_{which}lim")() for axes in panels]
        for axes in panels:
            getattr(axes, f"set_{which}lim")(min(low for low, _ in limits), max(high for _, high in limits))
    name_axes(figure, panels, chart)


def _share(heights: list[np.ndarray], chart: Chart) -> bool:
    """Whether panels of these heights can share a y axis and none of them looks flat."""
    if chart.y in chart.bounds:
        return True
    every = np.concatenate(heights)
    if chart.y in chart.log and (every > 0).all():
        return bool(every.max() <= 100 * every.min())
    spans = [float(np.ptp(each)) for each in heights if np.ptp(each) > 0]
    return not spans or float(np.ptp(every)) <= 8 * min(spans)


def name_axes(figure: Figure, panels: list[Axes], chart: Chart) -> None:
    """At the axes of a single panel, else once for all."""
    if len(panels) == 1:
        panels[0].set_xlabel(label(chart, chart.x))
        panels[0].set_ylabel(label(chart, chart.y))
    else:
        figure.supxlabel(label(chart, chart.x), fontsize=9.5, color=MUTED)
        figure.supylabel(label(chart, chart.y), fontsize=9.5, color=MUTED)


def _scale(axes: Axes, which: str, column: str, chart: Chart, values: np.ndarray, room: float) -> None:
    """Scale, ticks and bounds of one axis. values: all that it shows. room: how many labels it has space for."""
    axis, low, high = getattr(axes, f"{which}axis"), values.min(), values.max()
    room = max(2, int(room))
    fewer = int(0.75 * room) if which == "x" else room  # round numbers on a logarithmic axis are not evenly spread
    if column in chart.log and low > 0 and high > low:
        getattr(axes, f"set_{which}scale")("log")
        axis.set_major_locator(_log_ticks(values, room, fewer, few=which == "x" and chart.kind == "curve"))
        axis.set_minor_locator(NullLocator())
    elif column in chart.log and high > 0:  # a zero, as the position of a first token, has a place at the end of the axis
        positive = values[values > 0]
        getattr(axes, f"set_{which}scale")("symlog", linthresh=positive.min(), linscale=0.4)
        axis.set_major_locator(FixedLocator([0, *_decades(positive.min(), high, fewer - 1)]))
        axis.set_minor_locator(NullLocator())
        if which == "x" and low == 0:
            axes.set_xlim(-0.3 * positive.min(), high * 1.1)
    elif which == "x" and chart.kind == "curve" and _far_apart(values, min(room, 6)):
        axis.set_major_locator(FixedLocator(values.tolist()))
    else:
        axis.set_major_locator(MaxNLocator(min(room, 7), integer=whole(values) and high - low >= 2, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value, _digits(axis.get_majorticklocs()))))
    if column in chart.bounds and column not in chart.log:
        least, most = chart.bounds[column]
        margin = 0.03 * (most - least)
        getattr(axes, f"set_{which}lim")(min(least, low) - margin, max(most, high) + margin)
    elif which == "x" and chart.kind == "histogram":
        axes.set_xlim(low, high)


def _far_apart(values: np.ndarray, room: int) -> bool:
    """Whether each value can have a label of its own on a linear axis."""
    return len(values) <= room and (len(values) == 1 or np.diff(values).min() * room >= values.max() - values.min())


def _log_ticks(values: np.ndarray, room: int, fewer: int, few: bool) -> Locator:
    """The values themselves if they are few and evenly spread (512, 1,024, 2,048), else round numbers."""
    gaps = np.diff(np.log(values))
    if few and len(values) <= MARKED and gaps.max() <= 3 * gaps.min():
        return FixedLocator(values[:: math.ceil(len(values) / room)].tolist())
    ticks = _decades(values.min(), values.max(), fewer)
    return FixedLocator(ticks) if len(ticks) > 1 else MaxNLocator(min(room, 5))


def _decades(low: float, high: float, room: int) -> list[float]:
    """Round numbers from about low to high for a logarithmic axis, at most about `room` of them and at least one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1, 1.5, 2, 3, 5, 7) if high < 4 * low else (1, 2, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= room:
            return ticks or [low]
    return ticks[:: math.ceil(len(ticks) / max(1, room))]


def finish_bar(bar: Any, text: str, only_whole: bool = False) -> None:
    """The scale of colours: thin, without a frame, drawn as vectors. only_whole: whether only whole numbers have labels."""
    bar.outline.set_visible(False)
    bar.solids.set(rasterized=False, edgecolor="face", linewidth=0.3)
    bar.set_label(text, color=MUTED)
    bar.ax.tick_params(colors=MUTED, size=0)
    bar.ax.grid(visible=False)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    if only_whole:
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def name_panel(axes: Axes, text: str) -> None:
    """A panel's name, cut to the width of the panel."""
    columns = columns_of(axes)
    letters = 84 // columns
    axes.set_title(text if len(text) <= letters else f"{text[: letters - 1]}…", fontsize=9.5 if columns < 3 else 8.5, pad=4)


def whole(values: Any) -> bool:
    """Whether all these are whole numbers."""
    return all(float(value).is_integer() for value in values)


def _digits(ticks: Any) -> int:
    """As many significant digits as make the texts of all ticks different: 4.6812 and 4.6814 need five."""
    return next((n for n in range(4, 8) if len({number_text(tick, n) for tick in ticks}) == len({*ticks})), 8)


def number_text(value: float, digits: int = 4) -> str:
    """A number at an axis: `131,072`, `0.25`, `2.5 M`, `1e-05` with a true minus."""
    if value and (abs(value) < 1e-3):
        return f"{value:.2g}".replace("-", units.MINUS)
    if abs(value) >= 1e6:
        return units.count(value).replace(".00", "")
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.{digits}g}"
    return text.replace("-", units.MINUS)
