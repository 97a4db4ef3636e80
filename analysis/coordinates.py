"""The figure of a coordinate check: the scale of activations against width, a panel for each kind, a line per step."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from analysis import drawing

TITLES = {"mixer": "mixer outputs", "ffn": "ffn outputs", "stream": "residual stream", "logits": "logits"}


@drawing.styled
def figure(rows: list[dict[str, Any]], title: str) -> Figure:
    """A Figure of the rows of `experiments.coordinates.Coordinate` at one rate: the geometric mean over layers, and its range."""
    places = [place for place in TITLES if any(row["place"] == place for row in rows)]
    steps, widths = (sorted({row[key] for row in rows}) for key in ("step", "width"))
    drawn = Figure(figsize=(drawing.WIDTH, 3.4), layout="constrained")
    panels = drawn.subplots(1, len(places), squeeze=False)[0]
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(steps)))
    for axes, place in zip(panels, places, strict=True):
        for step, shade in zip(steps, shades, strict=True):
            found = [
                [row["rms"] for row in rows if (row["place"], row["step"], row["width"]) == (place, step, width)]
                for width in widths
            ]
            means = [float(np.exp(np.mean(np.log(each)))) for each in found]
            label = "before training" if step == 0 else f"after step {step}"
            axes.plot(widths, means, color=shade, marker=".", ms=7, lw=1.5, label=label)
            if step in (steps[0], steps[-1]):
                axes.fill_between(
                    widths, [min(each) for each in found], [max(each) for each in found], color=shade, alpha=0.12, lw=0
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(widths))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.minorticks_off()
        axes.set_title(TITLES[place])
    panels[0].set_ylabel("root mean square")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), labelcolor=drawing.INK)
    drawn.suptitle(f"{title}; bands: least and most over the layers", fontsize=9.5, x=0.01, ha="left", color=drawing.MUTED)
    for axes in panels:
        axes.set_xlabel("width (model.dim)")
    return drawn
