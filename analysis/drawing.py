"""What all figures share: colours, the look of an arm, the style, titles, axes, names beside points; a figure as SVG.

pyplot is not used: it keeps global state, and a figure should belong to its caller. The palette is by Okabe and Ito and
suits colour-blind readers. An arm has the same colour and marker in every figure; the baseline is dark. INK, MUTED,
GRID and PAPER are single colours so that a report can replace them by the colours of its theme.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from analysis import glyphs
from analysis.shown import Shown
from arch import units

INK, MUTED, GRID, PAPER = "#1c2026", "#6a717b", "#dfe2e7", "#fefefe"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", ":", "-."]
# {variable of a page's theme (`analysis.style`): the colour in whose place it stands}
VARIABLES = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER} | {f"arm{i}": each for i, each in enumerate(COLOURS, 1)}
WIDTH = 7.6
LONGEST = 40  # letters of a name in a figure
SURE_TO_FIT = 25  # letters beside the lowest y axis
LEGEND_LINE = 0.22  # inches
MOST_COLUMNS = 6  # of a legend
# In the first part of training the loss falls by far more than the arms differ; the axes show only the rest.
SKIPPED = 1 / 3

STYLE: Any = {  # matplotlib's own type of it names every key
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": PAPER,
    "svg.fonttype": "path",
    "text.parse_math": False,  # a label may have dollars
}


# Of a figure as SVG: where its shapes are, to a hundredth of a point; a letter's outline, which has the same name in every figure.
PLACES = re.compile(r' d="[^"]*"|translate\([^)]*\)|(?<= )[xy]="[^"]*"')
DIGITS = re.compile(r"(\.\d\d)\d+")
GLYPH = re.compile(r'<path id="(?P<name>[\w-]+-[0-9a-f]+)" d="[^"]*" transform="scale\(0\.015625\)"/>')
EMPTY = re.compile(r"<defs>\s*</defs>\s*")
BETWEEN = re.compile(r"(?<=>)\s+(?=<)|<!--.*?-->\s*|\s*\n\s*(?=\")", re.DOTALL)  # of elements, and before the end of a path
RASTER_DPI = 144


@dataclass(frozen=True)
class Look:
    """How an arm is drawn."""

    colour: str
    marker: str
    line: str


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """{arm: Look}. The baseline (the first arm) is dark. Beyond six others, colours repeat with another line style."""
    found = {}
    for i, arm in enumerate(arms):
        colour = COLOURS[(i - 1) % len(COLOURS)] if i else INK
        found[arm] = Look(colour, MARKERS[i % len(MARKERS)], LINES[max(0, i - 1) // len(COLOURS) % len(LINES)])
    return found


def short(name: str) -> str:
    """A name that fits beside a row or into a legend; a long one lacks its middle, as names often differ at their ends.

    Of a comparison of two cells of a grid, what both share stands once: `rate=high: caps=off against caps=on`.
    """
    sides = [side.split() for side in name.split(" against ")]
    if len(sides) == 2 and all("=" in level for side in sides for level in side):
        shared = [level for level in sides[0] if level in sides[1]]
        rest = [" ".join(level for level in side if level not in shared) for side in sides]
        name = f"{' '.join(shared)}: {' against '.join(rest)}" if shared and all(rest) else name
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 14]}…{name[-13:]}"


def svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element to stand inside HTML: no prologue, no metadata, no address of any kind."""
    out = io.StringIO()
    # The salt keeps the ids of two figures on one page apart, and makes the same figure the same text.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(out, format="svg", transparent=True, metadata=metadata, dpi=RASTER_DPI)
    element = BETWEEN.sub("", out.getvalue()[out.getvalue().index("<svg") :])
    for address in ('xmlns:xlink="http://www.w3.org/1999/xlink"', 'xmlns="http://www.w3.org/2000/svg"'):
        element = element.replace(address, "")
    return PLACES.sub(lambda found: DIGITS.sub(r"\1", found.group()), element.replace("xlink:href", "href"))


def shared_glyphs(content: str) -> str:
    """HTML with the outline of each letter once: every figure comes with those that it has, and one page may use the first."""
    known: set[str] = set()

    def once(found):
        again = found["name"] in known
        known.add(found["name"])
        return "" if again else found.group()

    return EMPTY.sub("", GLYPH.sub(once, content))


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file of 256 colours: a third of the size, and the same to the eye."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120, facecolor="white")
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def themed(figure: Figure, name: str) -> str:
    """`svg`, in the colours of the page's theme: the single colours become variables of `analysis.style`."""
    drawn = svg(figure, name)
    for variable, colour in VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    return drawn


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw under STYLE, which must not leak into a notebook's own figures; all texts with fonts that have their letters, and no
    label longer than its y axis.
    """

    def drawn(*args):
        with matplotlib.rc_context(STYLE):
            made = draw(*args)
            return _wrapped(glyphs.apply(made)) if isinstance(made, Figure) else made

    drawn.__doc__, drawn.__name__ = draw.__doc__, draw.__name__
    return drawn


def _wrapped(figure: Figure) -> Figure:
    """A figure with those labels of y axes on several lines that are longer than their axes: the layout makes no room for them."""
    labels = {axes: axes.yaxis.label for axes in figure.axes if len(axes.get_ylabel()) > SURE_TO_FIT}
    if labels:
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes, label in labels.items():
            share = axes.bbox.height / label.get_window_extent(renderer).height
            if share < 1:
                label.set_text("\n".join(textwrap.wrap(label.get_text(), int(share * len(label.get_text())))))
    return figure


def legend_above(figure: Figure, handles: Mapping[str, Any]) -> None:
    """A legend above a whole figure, {name: line}, in as many columns as fit its width; the figure grows from its third line on."""
    names, columns = list(map(short, handles)), min(MOST_COLUMNS, len(handles))
    while columns:
        legend = figure.legend(handles.values(), names, loc="outside upper left", ncols=columns, labelcolor=INK)
        box = legend.get_window_extent(FigureCanvasAgg(glyphs.apply(figure)).get_renderer())
        edge = legend.borderaxespad * legend.prop.get_size_in_points() * figure.dpi / 72  # between a figure's side and its legend
        if columns == 1 or box.width + 2 * edge <= figure.bbox.width:
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + LEGEND_LINE * max(0, math.ceil(len(names) / columns) - 2))
            return
        legend.remove()
        columns -= 1


def scale_x(axes: Axes, shown: Shown, low: float, high: float) -> None:
    """Limits and labels of an x axis from `low` to `high`, logarithmic where that spans more than a factor of three."""
    form = FuncFormatter(lambda x, _: shown.number(x).replace(".00", "").replace(".0", ""))
    if low > 0 and high / low > 3:
        axes.set_xscale("log")
        room = (high / low) ** 0.22
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_locator(LogLocator(subs=_ticks(high / low)))
        axes.xaxis.minorticks_off()
    else:
        room = max(0.25 * (high - low), 0.02 * abs(high), 1e-9)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(form)


def forest_row(
    axes: Axes, row: int, name: str, look: Look, seeds: list[float], bars: list[tuple[list[float], float]], mean: float, note: str
) -> None:
    """A row of a figure of differences: seeds as small dots, (interval, line width) as bars, the mean, and a note on the right."""
    axes.plot(seeds, [row + 0.2] * len(seeds), ".", color=look.colour, ms=5, alpha=0.55, mew=0, label=name)
    for interval, width in bars:
        axes.plot(interval, [row, row], color=look.colour, lw=width, solid_capstyle="round", label=name)
    axes.plot([mean], [row], look.marker, color=look.colour, ms=9, mec=PAPER, mew=0.8, label=name)
    axes.annotate(
        note, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=MUTED, fontsize=8.5, annotation_clip=False
    )


def signed_tick(x: float) -> str:
    """The label of a tick on an axis of differences."""
    return "0" if abs(x) < 1e-9 else f"{x:+.3g}".replace("-", units.MINUS)


def _ticks(span):
    """The first digits of the labelled sizes on a log axis: at least one label for any span, and never too many."""
    return (1, 1.5, 2, 3, 5, 7) if span < 4 else (1, 2, 5) if span < 100 else (1,)


def name_points(figure: Figure, axes: Any, points: Mapping[str, tuple[float, float, str]]) -> None:
    """Write names beside points {name: (x, y, colour)}, placed to overlap little with other points, bars and names."""
    renderer, taken = FigureCanvasAgg(figure).get_renderer(), list[Any]()
    family = glyphs.families(points)
    glyphs.apply(figure).draw(renderer)
    for line in axes.get_lines():
        marked = line.get_marker() not in ("None", "")
        wide = (line.get_markersize() / 2 + line.get_markeredgewidth()) * figure.dpi / 72 if marked else 2
        taken += [(x - wide, y - wide, x + wide, y + wide) for x, y in line.get_transform().transform(line.get_xydata())]
    for bars in axes.collections:
        for path in bars.get_paths():
            ends = axes.transData.transform(path.vertices[[0, -1]])
            taken.append((*(ends.min(axis=0) - 2), *(ends.max(axis=0) + 2)))
    frame = axes.get_window_extent()
    places = [(dx, dy, side) for dy in (0, 9, -9, 18, -18, 28, -28, 40, -40) for dx, side in ((9, "left"), (-9, "right"))]
    for name, (x, y, colour) in points.items():
        options: list[Any] = []
        for dx, dy, side in places:
            text = axes.annotate(
                glyphs.legible(short(name)),
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                color=colour,
                fontweight="bold",
                fontfamily=family,
            )
            box = text.get_window_extent(renderer).extents
            outside = not (frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1)
            options.append((sum(_overlap(box, other) for other in taken) + 1e6 * outside, abs(dy), len(options), text, box))
        best = min(options)
        for option in options:
            if option is not best:
                option[3].remove()
        taken.append(tuple(best[4]))


def _overlap(a, b):
    """The area that two boxes (x0, y0, x1, y1) share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def titled(axes: Any, text: str) -> None:
    """Set a title, wrapped to the width of the axes; of a single column, at the edge of the figure, as names of rows take room.

    Matplotlib wraps between words alone: a word that is longer than any name of a row is broken here.
    """
    columns = axes.get_subplotspec().get_gridspec().ncols
    if columns > 1:
        axes.set_title("\n".join(textwrap.wrap(text, 84 // columns)))
    else:
        axes.set_title(" ".join(word[at : at + LONGEST] for word in text.split() for at in range(0, len(word), LONGEST)), wrap=True)


def counted_seeds(counts: Iterable[float]) -> str:
    """`means and 95 % intervals, n = 5 seeds`; a range of n if arms differ; a note if there is only one seed."""
    counts = sorted({int(count) for count in counts})
    if counts == [1]:
        return "one seed, no intervals"
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"means and 95{units.SPACE}% intervals, n = {text} seeds"
