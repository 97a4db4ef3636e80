"""Draws a chart of an evaluator's tables (`arch.contracts.Chart`) for all arms, without knowing the evaluator.

Lines are means over an arm's seeds, with a band from the least to the most of them; cells of a grid are means. Arms look as
in the other figures. With few values of `by`, there is a panel for each, in which arms can be compared; with many, there is
a panel per arm, in which the colour of a line says the value. A figure returned belongs to its caller, as in `drawing`.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.chart_axes import (
    INCHES_PER_LETTER,
    MARKED,
    finish,
    finish_bar,
    name_axes,
    name_panel,
    number_text,
    panels_of,
    whole,
)
from analysis.drawing import COLOURS, INK, LINES, MARKERS, PAPER, WIDTH, Look, looks, short, styled
from analysis.evaluated import Evaluated, label, number, title
from arch import units
from arch.contracts import Chart

# The largest number of values of `by` that have a panel each in which arms are compared as lines.
PANELS = 9
# Colours in the order of a quantity, none of them near the paper of a light or a dark page.
ORDERED = LinearSegmentedColormap.from_list("ordered", ["#3b7fd9", "#7a6bd8", "#b257b8", "#d8507f", "#e06c3c", "#c9921c"])
# Of cells. Texts in them are near black or white, but not INK or PAPER, which change with the theme of a page.
CELLS = matplotlib.colormaps["viridis"].resampled(48)
MANY_CELLS = 100  # of a panel
ON_LIGHT, ON_DARK = "#14171b", "#ffffff"

Handles = dict[str, Line2D]  # of the legend
Drawn = tuple[Figure, Handles]


def figures(evaluated: Sequence[Evaluated], arms: Sequence[str], style: Mapping[str, Look] | None = None) -> dict[str, Figure]:
    """{name: Figure} of every chart of every Evaluated, of some arms.

    style: how each arm looks in the other figures (`analysis.crowd.looks`); None where there are no others.
    """
    style = looks(arms) if style is None else style
    found = {name: draw(each, chart, arms, style) for each in evaluated for name, chart in named(each).items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def named(each: Evaluated) -> dict[str, Chart]:
    """{name of its figure: chart} of an Evaluated."""
    return {f"{each.stem}-{i}": chart for i, chart in enumerate(each.charts, 1)}


def scalars(evaluated: Sequence[Evaluated], arm: str, seed: int) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} of one run's curves, with x rounded to a whole number as the step.

    The tag is evaluation/NAME/COLUMN, then the value of `by`. Curves whose points rounding would join are left out.
    """
    found: dict[str, dict[int, float]] = {}
    for each in evaluated:
        for chart in each.charts:
            points = each.points(arm, seed, chart) if chart.kind == "curve" else pd.DataFrame()
            for value in _values({arm: points}, chart.by) if len(points) else []:
                own = _of({arm: points}, chart.by, value)[arm].groupby("x").height.mean()
                steps = [round(x) for x in own.index]
                name = "/".join(["evaluation", each.tag, chart.y, *([_by_text(chart, value)] if chart.by else [])])
                if len(set(steps)) == len(steps):
                    found[name] = dict(zip(steps, own.tolist(), strict=True))
    return found


@styled
def draw(each: Evaluated, chart: Chart, arms: Sequence[str], style: Mapping[str, Look] | None = None) -> Figure | None:
    """The figure of one chart, or None if no arm has a row of it."""
    drawn, style = each.over_seeds(chart), style or looks(arms)
    if not drawn:
        return None
    make = {"curve": _curve, "grid": _grid, "histogram": _histogram}[chart.kind]
    figure, handles = make(chart, drawn, style)
    _title(figure, f"{title(chart)}: {next(iter(drawn))}" if len(drawn) < 2 <= len(arms) else title(chart), handles)
    return figure


def _curve(chart: Chart, drawn: dict[str, pd.DataFrame], style: Mapping[str, Look]) -> Drawn:
    values = _values(drawn, chart.by)
    if chart.by and (len(drawn) == 1 or len(values) > PANELS):
        return _curves_by_colour(chart, drawn, values)
    figure, panels = panels_of(len(values))
    for axes, value in zip(panels, values, strict=True):
        for arm, rows in _of(drawn, chart.by, value).items():
            _line(axes, rows, style[arm], arm)
        if chart.by:
            name_panel(axes, _by_text(chart, value))
    finish(figure, panels, chart, drawn)
    return figure, {arm: _handle(style[arm]) for arm in drawn} if len(drawn) > 1 else {}


def _curves_by_colour(chart: Chart, drawn: dict[str, pd.DataFrame], values: list[Any]) -> Drawn:
    """A panel per arm; a line's colour says its value of `by`."""
    ordered = all(number(value) is not None for value in values)
    style = _by_colours(values, ordered)
    figure, panels = panels_of(len(drawn))
    for axes, (arm, rows) in zip(panels, drawn.items(), strict=True):
        for value in values:
            own = rows[rows.by == value]
            if len(own):
                _line(axes, own, style[value], _by_text(chart, value), band=len(values) <= PANELS)
        if len(drawn) > 1:
            name_panel(axes, arm)
    finish(figure, panels, chart, drawn)
    if ordered and len(values) > PANELS:
        scale = Normalize(min(values), max(values))
        bar = figure.colorbar(ScalarMappable(scale, ORDERED.resampled(48)), ax=panels, aspect=28, pad=0.02)
        finish_bar(bar, label(chart, chart.by), whole(values))
        return figure, {}
    return figure, {_by_text(chart, value): _handle(style[value]) for value in values}


def _by_colours(values: list[Any], ordered: bool) -> dict[Any, Look]:
    """How the lines of values of `by` look: colours in order for numbers, different ones for texts."""
    if ordered:
        span = (max(values) - min(values)) or 1
        at = {
            value: (value - min(values)) / span if len(values) > PANELS else i / max(1, len(values) - 1)
            for i, value in enumerate(values)
        }
        return {value: Look(matplotlib.colors.to_hex(ORDERED(at[value])), "o", "-") for value in values}
    n = len(COLOURS)
    return {value: Look(COLOURS[i % n], MARKERS[i % len(MARKERS)], LINES[i // n % len(LINES)]) for i, value in enumerate(values)}


def _line(axes: Axes, rows: pd.DataFrame, look: Look, name: str, band: bool = True) -> None:
    rows = rows.sort_values("x")
    marker: dict[str, Any] = {"marker": look.marker, "ms": 4.5, "mec": PAPER, "mew": 0.5} if len(rows) <= MARKED else {}
    axes.plot(rows.x, rows["mean"], look.line, color=look.colour, label=name, lw=1.5, zorder=3, **marker)
    if not band or not (rows.n > 1).any():
        return
    if len(rows) == 1:
        axes.vlines(rows.x, rows.low, rows.high, color=look.colour, lw=1.4, zorder=2, label=name)
    else:
        axes.fill_between(rows.x, rows.low, rows.high, color=look.colour, alpha=0.15, lw=0, label=name)


def _histogram(chart: Chart, drawn: dict[str, pd.DataFrame], style: Mapping[str, Look]) -> Drawn:
    values = _values(drawn, chart.by)
    figure, panels = panels_of(len(values))
    for axes, value in zip(panels, values, strict=True):
        for arm, rows in _of(drawn, chart.by, value).items():
            _steps(axes, rows.sort_values("x"), style[arm], arm, filled=len(drawn) == 1)
        if chart.by:
            name_panel(axes, _by_text(chart, value))
    finish(figure, panels, chart, drawn)
    return figure, {arm: _handle(style[arm], marker=False) for arm in drawn} if len(drawn) > 1 else {}


def _steps(axes: Axes, rows: pd.DataFrame, look: Look, name: str, filled: bool) -> None:
    """Bars as one outline, which falls to the ground at its ends and where bars do not meet."""
    x: list[float] = []
    heights: dict[str, list[float]] = {"mean": [], "low": [], "high": []}

    def go(to: float, **ends: float) -> None:
        x.append(to)
        for end in heights:
            heights[end].append(ends.get(end, 0.0))

    for row in rows.to_dict("records"):
        low, high = row["x"], row["to"]
        if not x or not math.isclose(x[-1], low):
            if x:
                go(x[-1])
            go(low)
        ends = {end: row[end] for end in heights}
        go(low, **ends)
        go(high, **ends)
    go(x[-1])
    axes.plot(x, heights["mean"], look.line, color=look.colour, label=name, lw=1.3, zorder=3)
    if filled:
        axes.fill_between(x, 0, heights["mean"], color=look.colour, alpha=0.18, lw=0, label=name)
    elif (rows.n > 1).any():
        axes.fill_between(x, heights["low"], heights["high"], color=look.colour, alpha=0.15, lw=0, label=name)


def _grid(chart: Chart, drawn: dict[str, pd.DataFrame], style: Mapping[str, Look]) -> Drawn:
    """A panel per arm and value of `by`. Cells are equally large, in the order of their numbers; all share their colours."""
    values = _values(drawn, chart.by)
    xs, ys = (sorted({value for rows in drawn.values() for value in rows[column]}) for column in ("x", "y"))
    named = [(arm, value, rows) for value in values for arm, rows in _of(drawn, chart.by, value).items()]
    everything = pd.concat([rows["mean"] for _, _, rows in named])
    text = lambda value: _cell_text(value, everything, chart)  # noqa: E731
    wide = 0.07 * max(len(text(value)) for value in everything) + 0.04  # inches of a cell with its number
    columns = _grid_columns(len(named), len(xs), len(ys), len(drawn), wide)
    width = _grid_width(columns)
    tall = min(max(0.27 * len(ys), 1.1), 4.2 if columns == 1 else 3.2)
    rows_of_panels = math.ceil(len(named) / columns)
    figure, panels = panels_of(len(named), columns, (tall + 0.48) * rows_of_panels + 0.75)
    norm = _norm(chart, everything)
    written = width / len(xs) >= wide and tall / len(ys) > 0.17
    for axes, (arm, value, rows) in zip(panels, named, strict=True):
        cells = np.full((len(ys), len(xs)), np.nan)
        for row in rows.to_dict("records"):
            cells[ys.index(row["y"]), xs.index(row["x"])] = row["mean"]
        edges: dict[str, Any] = {"edgecolors": PAPER, "linewidth": 0.8} if written else {"edgecolors": "face", "linewidth": 0.2}
        edges["rasterized"] = cells.size > MANY_CELLS  # a shape each would be most of a page
        axes.pcolormesh(np.arange(len(xs) + 1), np.arange(len(ys) + 1), np.ma.masked_invalid(cells), cmap=CELLS, norm=norm, **edges)
        if written:
            _write(axes, cells, norm, text)
        _cell_ticks(axes, xs, ys, width, tall)
        parts = [*([arm] if len(drawn) > 1 else []), *([_by_text(chart, value)] if chart.by else [])]
        if parts:
            name_panel(axes, ", ".join(parts))
    bar = figure.colorbar(ScalarMappable(norm, CELLS), ax=panels, aspect=22, pad=0.02)
    finish_bar(bar, label(chart, chart.value))
    name_axes(figure, panels, chart)
    return figure, {}


def _grid_columns(count: int, across: int, down: int, arms: int, wide: float) -> int:
    """How many panels stand beside each other: as many as leave room for the numbers in few cells, else by their count."""
    most = 1 if across > 40 else 2 if across > 16 else 3 if across > 8 else 4
    if across * down <= 100:
        most = next((columns for columns in (4, 3, 2) if _grid_width(columns) / across >= wide), most)
    return arms if arms <= most else min(count, most)


def _grid_width(columns: int) -> float:
    """About how wide the cells of a panel are together, in inches."""
    return (WIDTH - 1.5) / columns - 0.3


def _norm(chart: Chart, values: pd.Series) -> Normalize:
    low, high = values.min(), values.max()
    if chart.value in chart.log and low > 0:
        return LogNorm(low, high if high > low else 2 * low)
    if chart.value in chart.bounds:
        low, high = chart.bounds[chart.value]
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return Normalize(low, high)


def _cell_text(value: float, everything: pd.Series, chart: Chart) -> str:
    """A cell's number, all cells with the same number of decimals."""
    if chart.value in chart.bounds and max(chart.bounds[chart.value]) <= 1:
        return f"{value:.2f}"
    largest = everything.abs().max()
    if chart.value in chart.log or largest >= 1e5 or largest < 0.01:
        return f"{value:.2g}".replace("-", units.MINUS)
    span = everything.max() - everything.min()
    apart = 1 - math.floor(math.log10(span)) if span > 0 else 0  # so many decimals tell the cells apart
    decimals = max(0 if largest >= 100 else 1 if largest >= 10 else 2, min(apart, 4))
    return f"{value:.{decimals}f}".replace("-", units.MINUS)


def _write(axes: Axes, cells: np.ndarray, norm: Normalize, text: Any) -> None:
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            red, green, blue, _ = CELLS(norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
            axes.text(column + 0.5, row + 0.5, text(value), color=ON_DARK if dark else ON_LIGHT, **place)


def _cell_ticks(axes: Axes, xs: list[float], ys: list[float], width: float, tall: float) -> None:
    """Label the middle of each column and row, or of as many as there is room for."""
    longest = max(len(number_text(value)) for value in xs)
    for axis, values, room in ((axes.xaxis, xs, width / (INCHES_PER_LETTER * longest + 0.1)), (axes.yaxis, ys, tall / 0.17)):
        step = max(1, math.ceil(len(values) / max(room, 1)))
        axis.set_ticks([i + 0.5 for i in range(0, len(values), step)], [number_text(value) for value in values[::step]])
    # What a reader's mouse, or a live chart, says of a place.
    axes.fmt_xdata = lambda at: number_text(xs[min(int(at), len(xs) - 1)])
    axes.fmt_ydata = lambda at: number_text(ys[min(int(at), len(ys) - 1)])
    axes.set_xlim(0, len(xs))
    axes.set_ylim(len(ys), 0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)


def _title(figure: Figure, heading: str, handles: Handles) -> None:
    """The title, and below it the legend in as many columns as fit; both above the panels."""
    text, bold = "\n".join(textwrap.wrap(heading, 84)), {"size": 10.5, "weight": "bold"}
    if not handles:
        figure.suptitle(text, x=0.012, ha="left", fontsize=bold["size"], fontweight="bold", color=INK)
        return
    names = list(map(short, handles))
    columns = max(1, min(len(names), int(WIDTH / (INCHES_PER_LETTER * max(map(len, names)) + 0.55))))
    shown: dict[str, Any] = {"title": text, "title_fontproperties": bold, "alignment": "left", "labelcolor": INK, "fontsize": 9}
    figure.legend(handles.values(), names, loc="outside upper left", ncols=columns, borderpad=0, borderaxespad=0.7, **shown)


def _handle(look: Look, marker: bool = True) -> Line2D:
    shown: dict[str, Any] = {"marker": look.marker, "ms": 4.5, "mec": PAPER, "mew": 0.5} if marker else {}
    return Line2D([], [], color=look.colour, ls=look.line, lw=1.8, **shown)


def _values(drawn: dict[str, pd.DataFrame], by: str) -> list[Any]:
    """The values of `by` in all arms: numbers in their order, then texts as they come. [None] without `by`."""
    if not by:
        return [None]
    values = list(dict.fromkeys(value for rows in drawn.values() for value in rows.by))
    numbers = [value for value in values if number(value) is not None]
    return [*sorted(numbers), *(value for value in values if number(value) is None)]


def _of(drawn: dict[str, pd.DataFrame], by: str, value: Any) -> dict[str, pd.DataFrame]:
    """The rows of one value of `by`, of the arms that have some."""
    if not by:
        return drawn
    found = {arm: rows[rows.by == value] for arm, rows in drawn.items()}
    return {arm: rows for arm, rows in found.items() if len(rows)}


def _by_text(chart: Chart, value: Any) -> str:
    """`length 512`; a text is its own name."""
    if number(value) is None:
        return str(value)
    name = label(chart, chart.by).partition(",")[0].partition("(")[0].strip()
    return f"{name} {number_text(value)}"
