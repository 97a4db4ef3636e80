"""A figure that can be looked around in: the same lines, bands and points as a chart of Bokeh, made from the drawn figure.

What a page shows is the still picture; where scripts run, `live.js` puts the chart in its place, in the width of the window
and the colours of the theme. So no figure is drawn by two pieces of code, and a page without scripts, or on paper, lacks
nothing but the looking around.

Bokeh (BSD-3-Clause) is read from its package and stands once in a page, compressed; nothing is fetched.
"""

import base64
import gzip
import html
import json
import math
import os
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator

from analysis import drawing
from arch.words import visible
from experiments.files import write_atomically

MARKERS = {
    "o": "circle",
    ".": "circle",
    "s": "square",
    "^": "triangle",
    "v": "inverted_triangle",
    "D": "diamond",
    "P": "plus",
    "X": "x",
    "x": "x",
    "|": "dash",
    ">": "triangle",
    "*": "star",
}
DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dotdash"}
PANEL, ROW = {1: 300, 2: 270, 4: 220}, 50  # pixels: how tall one of so many panels is, and a row of one whose rows are named
LINE = 15  # pixels of a line of a row's name
SMALL = 180  # pixels, one of more panels
CELL, CELLS_LEAST, CELLS_MOST = 26, 120, 460  # pixels: how tall a row of cells is, and all of them at least and at most
STOPS = 13  # colours by which a page draws a scale of colours
KNOWN = (PolyCollection, LineCollection, QuadMesh)
WRAP = 18  # letters of a row's name in a line
DIGITS = 6  # of a coordinate, more than a screen can show
# A still picture in a page.
STILL = re.compile(r"(?P<before><div class=still data-figure='(?P<name>[^']*)'[^>]*>)<svg.*?</svg>\s*</div>", re.DOTALL)


class Axis(NamedTuple):
    """One axis of a panel. at: from data to the place in the chart; the identity unless the scale is no scale of Bokeh."""

    scale: str
    limits: tuple[float, float]
    at: Any
    ticks: dict[float, str]  # fixed ones; none where the chart finds round numbers itself
    prefixed: bool
    unit: str
    signed: bool


def chart(figure: Figure) -> str:
    """The chart of a figure that was drawn, as JSON for `live.js`; empty if it stays a picture: it has what is not KNOWN.

    {panels: [{id, title, x, y}], columns, names: [{shown, name, colour, dash}], scale: {label, colours, texts}, heading,
    documents, items}
    """
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    if not panels or any(not isinstance(each, KNOWN) for axes in panels for each in axes.collections):
        return ""
    from bokeh.document import Document
    from bokeh.embed.util import standalone_docs_json_and_render_items

    document, drawn = Document(), [_panel(axes, _tall(len(panels))) for axes in panels]
    for made in drawn:
        document.add_root(made)
    documents, items = standalone_docs_json_and_render_items(drawn)
    named = {str(each.name) for made in drawn for each in made.renderers if each.name}
    return json.dumps(
        {
            "heading": _heading(figure),
            "names": _names(figure, panels, named),
            "columns": _columns(panels),
            "scale": _scale(figure),
            "panels": [
                {"id": made.id, "title": _title(axes), "x": _label(figure, axes, "x"), "y": _label(figure, axes, "y")}
                for axes, made in zip(panels, drawn, strict=True)
            ],
            "documents": documents,
            "items": [item.to_json() for item in items],
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def pictured(figure: Figure, name: str, caption: str) -> str:
    """A figure element: the still picture, and behind it the chart that takes its place where scripts run."""
    still, live = drawing.themed(figure, name), chart(figure)
    data = f"<script type='text/plain' class=live>{_packed(visible(live).encode())}</script>" if live else ""
    label = html.escape(caption, quote=True)
    return f"<figure><div class=still data-figure='{name}' role=img aria-label='{label}'>{still}</div>{data}</figure>"


def library() -> str:
    """What a page needs once whose figures have charts: Bokeh, compressed, and what puts the charts in place."""
    colours = json.dumps({colour: variable for variable, colour in drawing.VARIABLES.items()})
    return f"{_carried()}<script>const THEME = {colours};\n{(Path(__file__).parent / 'live.js').read_text()}</script>"


def share(page: Path, folder: Path) -> None:
    """Let a page below a folder read Bokeh from FOLDER/bokeh-VERSION.js, which kept reports share, instead of carrying it.

    Such a page is half as large. Without that file its pictures stay still.
    """
    import bokeh

    text, shared = page.read_text(), folder / f"bokeh-{bokeh.__version__}.js"
    if _carried() not in text:
        return
    content = f'document.currentScript.insertAdjacentHTML("afterend", `{_carried()}`);\n'
    if not shared.is_file() or shared.read_text() != content:
        write_atomically(shared, content.encode())
    link = os.path.relpath(shared, page.parent).replace(os.sep, "/")
    write_atomically(page, text.replace(_carried(), f"<script src='{link}'></script>").encode())


def beside(page: Path, figures: Path) -> None:
    """Let a page show the files FIGURES/NAME.png as its still pictures, instead of carrying them: they are most of a page.

    A page of which one is missing stays as it is, since its pictures have their letters in common.
    """
    text = page.read_text()
    if not all((figures / f"{found['name']}.png").is_file() for found in STILL.finditer(text)):
        return
    place = os.path.relpath(figures, page.parent).replace(os.sep, "/")
    write_atomically(page, STILL.sub(rf"\g<before><img src='{place}/\g<name>.png' alt='' loading=lazy></div>", text).encode())


def _carried() -> str:
    return f"<script type='text/plain' id=bokeh>{_bokeh()}</script>"


@cache
def _bokeh() -> str:
    """BokehJS with its licence, which its first lines are: gzip, base64."""
    import bokeh.resources

    path = Path(bokeh.resources.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return _packed(path.read_bytes())


def _packed(content: bytes) -> str:
    """What `live.js` unpacks, a seventh of a chart's JSON: gzip, base64."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _columns(panels: list[Axes]) -> int:
    """How many panels stand beside each other; those of cells as in the figure, where their numbers have room."""
    places = panels[0].get_subplotspec()
    drawn = places.get_gridspec().ncols if places is not None and _mesh(panels[0]) is not None else 3
    return min(drawn, len(panels))


def _mesh(axes: Axes) -> QuadMesh | None:
    return next((each for each in axes.collections if isinstance(each, QuadMesh)), None)


def _scale(figure: Figure) -> dict[str, Any] | None:
    """The scale of colours of a figure: what it is of, its colours, and the numbers at its ends and in its middle."""
    axes = next((each for each in figure.axes if each.get_label() == "<colorbar>"), None)
    if axes is None or (cells := _mesh(axes)) is None:
        return None
    form, at = axes.yaxis.get_major_formatter(), np.linspace(0, 1, STOPS)
    texts = [form(float(value), i) for i, value in enumerate(np.ravel(cells.norm.inverse(np.array([0.0, 0.5, 1.0]))))]
    return {"label": axes.get_ylabel(), "colours": [to_hex(each) for each in cells.cmap(at)], "texts": texts}


def _tall(panels: int) -> int:
    return next((tall for most, tall in PANEL.items() if panels <= most), SMALL)


def _panel(axes: Axes, tall: int) -> Any:
    from bokeh.events import DoubleTap
    from bokeh.models import BoxZoomTool, CustomJS, HoverTool, PanTool, Range1d, ResetTool, WheelZoomTool
    from bokeh.plotting import figure

    x, y = _axis(axes, "x"), _axis(axes, "y")
    if y.ticks and not x.ticks:
        lines = max(text.count("\n") + 1 for text in y.ticks.values())
        tall = 60 + max(ROW, LINE * (lines + 1)) * len(y.ticks)
    if (cells := _mesh(axes)) is not None:
        tall = 40 + min(CELLS_MOST, max(CELLS_LEAST, CELL * cells.get_array().shape[0]))
    made = figure(
        x_axis_type="log" if x.scale == "log" else "linear",
        y_axis_type="log" if y.scale == "log" else "linear",
        x_range=Range1d(*x.limits),
        y_range=Range1d(*y.limits),
        height=tall,
        sizing_mode="stretch_width",
        tools=[],
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=14,
    )
    zoom = BoxZoomTool()
    made.add_tools(zoom, WheelZoomTool(), PanTool(), ResetTool())
    made.toolbar.active_drag, made.toolbar.active_scroll = zoom, None  # a wheel scrolls the page
    made.toolbar.logo, made.toolbar.autohide = None, True
    made.js_on_event(DoubleTap, CustomJS(args={"made": made}, code="made.reset.emit()"))
    if cells is not None:
        _cells(made, axes, cells)
        _axes_look(made, x, y)
        return made
    hover = [each for each in _drawn(made, axes, x, y) if each is not None]
    shown = [("", "@name")] if any("name" in each.data_source.data for each in hover) else []
    shown += [(_short(axes, which), f"@{which}_is{{custom}}") for which, axis in (("x", x), ("y", y)) if not axis.ticks]
    if any("low" in each.data_source.data for each in hover):
        shown.append(("interval", "@low{custom} to @high{custom}"))
    formats = {f"@{column}": _hovered(axis) for column, axis in (("x_is", x), ("y_is", y), ("low", y), ("high", y))}
    made.add_tools(HoverTool(renderers=hover, tooltips=shown, formatters=formats, line_policy="nearest", attachment="vertical"))
    _axes_look(made, x, y)
    return made


def _cells(made: Any, axes: Axes, cells: QuadMesh) -> None:
    """Cells of equal size as an image, with what is written in them; where the mouse is, the place and the value are read."""
    from bokeh.models import CustomJSHover, HoverTool, LinearColorMapper, LogColorMapper

    values_YX = np.ma.filled(np.ma.asarray(cells.get_array(), dtype=np.float32), np.nan)
    down, across = values_YX.shape
    mapper = LogColorMapper if isinstance(cells.norm, LogNorm) else LinearColorMapper
    palette = [to_hex(cells.cmap(i)) for i in range(cells.cmap.N)]
    colours = mapper(palette=palette, low=float(cells.norm.vmin), high=float(cells.norm.vmax), nan_color="rgba(0, 0, 0, 0)")
    place: dict[str, Any] = {"image": "image", "x": 0, "y": 0, "dw": across, "dh": down}
    image = _shape(made, "Image", _source({"image": [values_YX]}), None, color_mapper=colours, **place)
    written = [text for text in axes.texts if not hasattr(text, "xycoords")]
    at = [text.get_position() for text in written]
    columns: dict[str, list[Any]] = {"x": [float(x) for x, _ in at], "y": [float(y) for _, y in at]}
    columns |= {"text": [text.get_text() for text in written], "colour": [to_hex(text.get_color()) for text in written]}
    centred = {"text_align": "center", "text_baseline": "middle", "text_font_size": "11px", "text_color": "colour"}
    if written:
        _shape(made, "Text", _source(columns), None, x="x", y="y", text="text", **centred)
    named = {
        "$x": [axes.format_xdata(i + 0.5) for i in range(across)],
        "$y": [axes.format_ydata(i + 0.5) for i in range(down)],
    }
    formats: dict[str, Any] = {
        which: CustomJSHover(args={"names": names}, code="return names[Math.min(names.length - 1, Math.max(0, Math.floor(value)))]")
        for which, names in named.items()
    }
    formats["@image"] = CustomJSHover(code="return archbench.number(value, {})")
    figure = axes.get_figure()
    what = (_scale(figure) or {}).get("label") if isinstance(figure, Figure) else ""
    shown = [(_short(axes, "x"), "$x{custom}"), (_short(axes, "y"), "$y{custom}"), (what or "value", "@image{custom}")]
    made.add_tools(HoverTool(renderers=[image], tooltips=shown, formatters=formats))


def _axes_look(made: Any, x: Axis, y: Axis) -> None:
    """Ticks, colours and grid of both axes."""
    for part, axis in ((made.xaxis[0], x), (made.yaxis[0], y)):
        _look(part, axis)
    for grid, axis in ((made.xgrid[0], x), (made.ygrid[0], y)):
        grid.grid_line_color = None if axis.ticks else drawing.GRID


def _look(part: Any, axis: Axis) -> None:
    """Ticks and colours of an axis of Bokeh."""
    from bokeh.models import CustomJSTicker, CustomJSTickFormatter, FixedTicker

    if axis.ticks:
        part.ticker = FixedTicker(ticks=list(axis.ticks))
        part.major_label_overrides = axis.ticks
    else:
        if axis.scale == "log":
            part.ticker = CustomJSTicker(
                major_code="return archbench.ticks(cb_data.range.start, cb_data.range.end)", minor_code="return []"
            )
        else:
            part.ticker.desired_num_ticks = 5
        part.formatter = CustomJSTickFormatter(code=f"return archbench.number(tick, {_options(axis)})")
    part.axis_line_color = part.major_tick_line_color = part.minor_tick_line_color = None
    part.major_label_text_color = drawing.INK if axis.ticks else drawing.MUTED
    part.major_label_text_font_size = "12px"


def _hovered(axis: Axis) -> Any:
    from bokeh.models import CustomJSHover

    return CustomJSHover(code=f"return archbench.number(value, {_options(axis)})")


def _options(axis: Axis) -> str:
    return json.dumps({"prefixed": axis.prefixed, "unit": axis.unit, "signed": axis.signed})


def _axis(axes: Axes, which: str) -> Axis:
    axis, scale = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}scale")()
    form, locator, limits = axis.get_major_formatter(), axis.get_major_locator(), getattr(axes, f"get_{which}lim")()
    plain = scale in ("linear", "log")
    at = (lambda values: np.asarray(values, dtype=float)) if plain else axis.get_transform().transform
    ticks: dict[float, str] = {}
    if isinstance(locator, FixedLocator):
        places = [float(tick) for tick in locator.locs]
        texts = [form(tick, i) for i, tick in enumerate(places)]
        if not plain or not all(_is_number(text, tick) for text, tick in zip(texts, places, strict=True)):
            notes = {float(text.xy[1]): text.get_text() for text in axes.texts if which == "y" and _is_beside(text)}
            for tick, text in zip(places, texts, strict=True):
                lines = [*textwrap.wrap(text, WRAP), *filter(None, [notes.get(tick)])]
                ticks[float(at([tick])[0])] = "\n".join(lines)
    sample = re.fullmatch(r"\+?2(?:\.0+)?\s?M(\S*)", form(2e6, 0))
    low, high = (float(end) for end in at(np.array(limits, dtype=float)))
    return Axis(scale, (low, high), at, ticks, bool(sample), sample[1] if sample else "", form(1.0, 0).startswith("+"))


def _is_number(text: str, tick: float) -> bool:
    try:
        return math.isclose(float(text.replace(",", "").replace("\N{MINUS SIGN}", "-")), tick, rel_tol=0.01)
    except ValueError:
        return False


def _is_beside(text: Any) -> bool:
    """Whether a text stands at the right end of a row."""
    return getattr(text, "xycoords", "") == ("axes fraction", "data")


def _drawn(made: Any, axes: Axes, x: Axis, y: Axis) -> list[Any]:
    """Draw everything of a panel; returns the renderers whose values can be read."""
    owner = {part: each.get_label() for each in axes.containers for part in _parts(each)}
    bands = {_own(each, owner): _band(each) for each in axes.collections if isinstance(each, PolyCollection)}
    for patch in axes.patches:
        _patch(made, axes, patch, x, y)
    for collection in axes.collections:
        _collection(made, collection, owner, x, y)
    read = [each for line in axes.get_lines() for each in _line(made, axes, line, owner, bands, x, y)]
    for text in axes.texts:
        _text(made, text, x, y)
    return read


def _parts(container: Any) -> list[Any]:
    """The artists of a container, one level deep or two."""
    return [part for each in container for part in (each if isinstance(each, tuple) else [each]) if part is not None]


def _own(artist: Any, owner: dict[Any, str]) -> str | None:
    """Whose an artist is: its label, or that of its container; None if nobody's."""
    name = str(owner.get(artist) or artist.get_label())
    return None if name.startswith("_") else name


def _line(made: Any, axes: Axes, line: Line2D, owner: Any, bands: Any, x: Axis, y: Axis) -> list[Any]:
    across, up = line.get_transform().contains_branch_seperately(axes.transData)
    xs, ys = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
    colour, alpha, name = to_hex(line.get_color()), line.get_alpha() or 1.0, _own(line, owner)
    if across != up and len(xs) == 2:
        _span(made, "width" if up else "height", float(ys[0] if up else xs[0]), colour, line.get_linewidth())
        return []
    if across != up:  # points at the edge of a panel
        places = line.get_transform().transform(np.column_stack([xs, ys]))
        xs, ys = axes.transData.inverted().transform(places).T
    data: dict[str, list[Any]] = {"x": _rounded(x.at(xs)), "y": _rounded(y.at(ys)), "x_is": _rounded(xs), "y_is": _rounded(ys)}
    if name:
        data["name"] = [name] * len(xs)
        low, high = bands.get(name) or ((), ())
        if len(low) == len(xs):
            data |= {"low": _rounded(low), "high": _rounded(high)}
    source, read = _source(data), []
    if line.get_linestyle() != "None" and len(xs) > 1:
        look = {"line_color": colour, "line_alpha": alpha, "line_width": line.get_linewidth() * 1.2}
        style = line.get_drawstyle()
        if style.startswith("steps"):
            mode = {"steps-post": "after", "steps-mid": "center"}.get(style, "before")
            read.append(_shape(made, "Step", source, name, x="x", y="y", mode=mode, **look))
        else:
            dash = DASHES.get(line.get_linestyle(), "solid")
            read.append(_shape(made, "Line", source, name, x="x", y="y", line_dash=dash, **look))
    mark = MARKERS.get(str(line.get_marker()))
    if mark or len(xs) == 1:
        hollow = str(line.get_markerfacecolor()) == "none"
        size = line.get_markersize() * (0.6 if line.get_marker() == "." else 1.1)
        fill = {"fill_color": None} if hollow else {"fill_color": colour, "fill_alpha": alpha}
        edge = {"line_color": colour if hollow or mark in ("x", "plus", "dash") else drawing.PAPER, "line_alpha": alpha}
        form = {"marker": mark or "circle", "size": max(size, 4)}
        read.append(_shape(made, "Scatter", source, name, x="x", y="y", **form, **fill, **edge))
    return read


def _span(made: Any, dimension: str, at: float, colour: str, width: float) -> None:
    from bokeh.models import Span

    made.add_layout(Span(location=at, dimension=dimension, line_color=colour, line_width=width, level="underlay"))


def _shape(made: Any, kind: str, source: Any, name: str | None, **look: Any) -> Any:
    """Draw a glyph of Bokeh; returns its renderer. The methods of a figure make four more glyphs, for selections and hovering."""
    from bokeh import models

    drawn = models.GlyphRenderer(data_source=source, glyph=getattr(models, kind)(**look), name=name)
    made.renderers.append(drawn)
    return drawn


def _source(data: dict[str, list[Any]]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(data)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _band(collection: PolyCollection) -> tuple[Any, Any] | None:
    """The lower and the upper ends of an area between two lines."""
    corners = collection.get_paths()[0].vertices if collection.get_paths() else np.zeros((0, 2))
    n = (len(corners) - 3) // 2
    if n < 1:
        return None
    one, other = corners[1 : n + 1, 1], corners[n + 2 : 2 * n + 2, 1][::-1]
    return (np.minimum(one, other), np.maximum(one, other)) if len(one) == len(other) else None


def _collection(made: Any, collection: Collection, owner: Any, x: Axis, y: Axis) -> None:
    name = _own(collection, owner)
    if isinstance(collection, PolyCollection):
        look = {"fill_color": to_hex(collection.get_facecolor()[0]), "fill_alpha": collection.get_alpha() or 1.0}
        for path in collection.get_paths():
            places = path.vertices
            ends = _source({"x": _rounded(x.at(places[:, 0])), "y": _rounded(y.at(places[:, 1]))})
            _shape(made, "Patch", ends, name, x="x", y="y", line_color=None, **look)
    elif isinstance(collection, LineCollection):
        segments = [np.asarray(each) for each in collection.get_segments()]
        colour, width = to_hex(collection.get_color()[0]), float(np.ravel(collection.get_linewidth())[0])
        xs, ys = [_rounded(x.at(each[:, 0])) for each in segments], [_rounded(y.at(each[:, 1])) for each in segments]
        _shape(made, "MultiLine", _source({"xs": xs, "ys": ys}), name, xs="xs", ys="ys", line_color=colour, line_width=width * 1.2)


def _patch(made: Any, axes: Axes, patch: Patch, x: Axis, y: Axis) -> None:
    from bokeh.models import BoxAnnotation

    if not isinstance(patch, Rectangle):
        return
    (left, low), wide, tall = patch.get_xy(), patch.get_width(), patch.get_height()
    look = {"fill_color": to_hex(patch.get_facecolor()), "fill_alpha": patch.get_alpha() or 1.0, "line_color": None}
    if patch.get_transform().contains_branch_seperately(axes.transData) == (True, False):
        left, right = (float(end) for end in x.at(np.array([left, left + wide])))
        made.add_layout(BoxAnnotation(left=left, right=right, level="underlay", **look))
        return
    (left, right), (low, high) = _rounded(x.at(np.array([left, left + wide]))), _rounded(y.at(np.array([low, low + tall])))
    ends = {"left": left, "right": right, "bottom": low, "top": high}
    _shape(made, "Quad", _source({end: [at] for end, at in ends.items()}), None, **{end: end for end in ends}, **look)


def _text(made: Any, text: Any, x: Axis, y: Axis) -> None:
    """A text at a point of the data; the others are no part of a panel."""
    from bokeh.models import Label

    if getattr(text, "xycoords", None) != "data" or not text.get_text():
        return
    aside, up = text.xyann
    label = Label(
        x=float(x.at([text.xy[0]])[0]),
        y=float(y.at([text.xy[1]])[0]),
        x_offset=aside,
        y_offset=up,
        text=text.get_text(),
        text_color=to_hex(text.get_color()),
        text_align=text.get_ha(),
        text_baseline="middle",
        text_font_size="12px",
        name=text.get_text(),
    )
    made.add_layout(label)


def _title(axes: Axes) -> str:
    return " ".join(filter(None, [axes.get_title(loc=loc) for loc in ("left", "center", "right")])).replace("\n", " ")


def _label(figure: Figure, axes: Axes, which: str) -> str:
    """What an axis is called, beside it or once for all panels."""
    shared = figure.get_supxlabel() if which == "x" else figure.get_supylabel()
    return (getattr(axes, f"get_{which}label")() or shared).replace("\n", "; ")


def _short(axes: Axes, which: str) -> str:
    """An axis in a word or two, for a value that is read."""
    figure = axes.get_figure()
    text = _label(figure, axes, which) if isinstance(figure, Figure) else ""
    return re.split(r", |[;(]| for | on the ", text)[0].strip()[:32] or which


def _heading(figure: Figure) -> str:
    above = [each.get_title().get_text() for each in figure.legends]
    return " ".join(filter(None, [figure.get_suptitle(), *above])).replace("\n", " ")


def _names(figure: Figure, panels: list[Axes], named: set[str]) -> list[dict[str, str]]:
    """The entries of the legend; those that name something in the panels can be hidden."""
    found = []
    for legend in figure.legends or [axes.get_legend() for axes in panels if axes.get_legend()]:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            shown = text.get_text()
            name = next((each for each in named if shown in (each, drawing.short(each))), "")
            colour, dash = getattr(handle, "get_color", lambda: drawing.INK)(), getattr(handle, "get_linestyle", lambda: "-")()
            found.append({"shown": shown, "name": name, "colour": to_hex(colour), "dash": DASHES.get(str(dash), "none")})
    return found
