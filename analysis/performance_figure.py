"""A figure of training time and memory against context: one column per model, one line per side."""

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.drawing import INK, STYLE, WIDTH, looks
from arch import units

NAMES = {
    "ours": "Archbench",
    "compiled": "Archbench, compiled",
    "hf": "transformers",
    "hf stock": "transformers, untouched process",
    "products": "our matrix products alone",
}


def cost_against_context(records):
    """Milliseconds per token and peak memory of a training step against context, for every model on a CPU.

    records: BenchRecords, oldest first; for each model and context the latest counts. None if none measured training.
    """
    found = _latest(records)
    models = list(dict.fromkeys(case[0] for case in found))
    if not models:
        return None
    style = looks(NAMES)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        panels = figure.subplots(2, len(models), squeeze=False, sharex="col", sharey="row")
        for column, model in enumerate(models):
            time, memory = panels[:, column]
            for side in NAMES:
                _line(time, found, model, "train", side, style[side], lambda each: 1000 * each.median / each.work)
                _line(memory, found, model, "memory", side, style[side], lambda each: each.median / 1e6)
            time.set_title(model)
            memory.set_xlabel("context, tokens")
            for axes in (time, memory):
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.minorticks_off()
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: units.number(y, 2)))
        panels[0][0].set_ylabel("training, ms per token")
        panels[1][0].set_ylabel("memory per step, MB")
        handles = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, labelcolor=INK)
        return figure


def _latest(records):
    """{(model, context, what, side): Measurement} of training on CPUs. Side `hf stock`: the peer in its own process."""
    return {
        (each.case["spec"], each.case["context"], *_named(each)): each
        for record in records
        if record.asked["device"] == "cpu"
        for each in record.measurements
        if each.what in ("train", "memory") or (each.what == "train stock" and each.side in record.against())
    }


def _named(each):
    what, stock, _ = each.what.partition(" stock")
    return what, each.side + stock


def _line(axes, found, model, what, side, look, value):
    points = sorted((context, value(each)) for (name, context, *key), each in found.items() if (name, *key) == (model, what, side))
    if points:
        marks = {"color": look.colour, "marker": look.marker, "ms": 5}
        axes.plot(*zip(*points, strict=True), look.line, label=NAMES[side], **marks)
