"""What a token of training costs, in time and memory, against the context: a column a model, a line a side."""

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis import units
from analysis.plots import INK, STYLE, WIDTH, looks

NAMES = {
    "ours": "Archbench",
    "compiled": "Archbench, compiled",
    "hf": "transformers",
    "hf stock": "transformers as it comes",
    "products": "our products alone",
}


def cost_against_context(records):
    """Milliseconds a token and peak memory of a training step against context, of every model on a CPU.

    records: BenchRecords, oldest first; of a model and context the latest counts. None where no training was measured.
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
                _line(memory, found, model, "memory", side, style[side], lambda each: each.median / 2**20)
            time.set_title(model)
            memory.set_xlabel("context, tokens")
            for axes in (time, memory):
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.minorticks_off()
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: units.number(y, 2)))
        panels[0][0].set_ylabel("ms a token, training")
        panels[1][0].set_ylabel("memory of a step, MiB")
        handles = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, labelcolor=INK)
        return figure


def _latest(records):
    """{(model, context, what, side): Measurement} of training and its memory on CPUs; the side `hf stock`: as it comes."""
    return {
        (each.case["spec"], each.case["context"], *_named(each)): each
        for record in records
        if record.asked["device"] == "cpu"
        for each in record.measurements
        if each.what in ("train", "memory") or (each.what, each.side) == ("train stock", record.asked["against"])
    }


def _named(each):
    what, stock, _ = each.what.partition(" stock")
    return what, each.side + stock


def _line(axes, found, model, what, side, look, value):
    points = sorted((context, value(each)) for (name, context, *key), each in found.items() if (name, *key) == (model, what, side))
    if points:
        marks = {"color": look.colour, "marker": look.marker, "ms": 5}
        axes.plot(*zip(*points, strict=True), look.line, label=NAMES[side], **marks)
