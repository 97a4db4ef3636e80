"""The figure of a study with a `ladder`: the metric against training FLOPs, on two logarithmic axes, a line per arm.

The line is the power law that the claim `power_law` judges: one slope per seed by least squares, and the t interval of their
mean. It ends where the sizes end: with a floor under the loss, nothing honest can be said beyond them.
"""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis import drawing
from arch import units
from experiments.metrics import IDEAL_OF_RUN, is_cost
from sweeps.claims.power_law import SIZES, fits
from sweeps.ladder import sized
from sweeps.stats import LEVEL, Sample, mean_interval

FLOPS = "cost/train_flops"


@dataclass(frozen=True)
class Law:
    """An arm over the sizes. points: [(size, FLOPs, {seed: metric})] in the order of the ladder.

    exponents, levels: one slope, and one log of the metric at 1 FLOP, per seed; empty for fewer than three sizes.
    """

    arm: str
    points: list[tuple[str, float, dict[int, float]]]
    exponents: Sample
    levels: Sample


def laws(study, judgement):
    """The Laws of a study's arms, {arm: Law}; none without a ladder, and for a metric that is no positive number of a run."""
    sizes, name = list((study.record.spec.get("ladder") or {}).get("sizes", [])), judgement.shown.name
    found: dict[str, list[tuple[str, float, dict[int, float]]]] = {}
    for label, values in study.values(name).items() if sizes and not is_cost(name) else ():
        arm, size = sized(label, sizes)
        flops = study.cost(label, FLOPS)
        if size and flops and values and min(values.values()) > 0:
            found.setdefault(arm, []).append((size, flops, values))
    return {arm: _law(arm, points) for arm, points in found.items()}


def _law(arm, points):
    made = fits([(flops, values) for _, flops, values in points])
    return Law(arm, points, *(Sample({seed: each[i] for seed, each in made.items()}) for i in (0, 1)))


@drawing.styled
def figure(study, judgement):
    """A Figure; None for a study without a ladder of which two sizes have runs."""
    found = {arm: law for arm, law in laws(study, judgement).items() if len(law.points) > 1}
    if not found:
        return None
    shown, looks = judgement.shown, drawing.looks(found)
    drawn = Figure(figsize=(drawing.WIDTH, 4.3), layout="constrained")
    axes = drawn.subplots()
    for arm, law in found.items():
        look = looks[arm]
        at = [flops for _, flops, _ in law.points]
        every = [mean_interval(np.log(list(values.values()))) for _, _, values in law.points]
        means = np.exp([each.mean for each in every])
        bars = None
        if all(each.low is not None for each in every):
            bars = [means - np.exp([each.low for each in every]), np.exp([each.high for each in every]) - means]
        point: Any = {"color": look.colour, "marker": look.marker, "ls": "none", "ms": 8, "mec": drawing.PAPER, "mew": 0.8}
        axes.errorbar(at, means, yerr=bars, elinewidth=1.5, label=f"{arm}{_exponent(law)}", **point)
        if law.exponents.n:
            ends = np.array([min(at), max(at)])
            axes.plot(ends, np.exp(law.levels.mean + law.exponents.mean * np.log(ends)), look.line, color=look.colour, lw=1.4)
    _log_axes(axes, shown, [values for law in found.values() for _, _, each in law.points for values in each.values()])
    axes.set_xlabel(IDEAL_OF_RUN)
    axes.set_ylabel(shown.values)
    # Where a loss falls, the corner above the last size is free.
    axes.legend(loc="upper right" if shown.metric.better == "lower" else "lower right", labelcolor=drawing.INK, fontsize=9)
    counts = (len(values) for law in found.values() for _, _, values in law.points)
    drawing.titled(axes, f"{shown.short[0].upper()}{shown.short[1:]} against training compute: {drawing.counted_seeds(counts)}")
    return drawn


def _log_axes(axes, shown, values):
    axes.set_xscale("log")
    axes.set_yscale("log")
    left, right = axes.get_xlim()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: units.flops(x).replace(".00", "").replace(".0", "")))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right / left < 100 else (1,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min(values), max(values)
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if tick > 0] if high > low else [low]
    axes.set_yticks(ticks, [shown.number(tick) for tick in ticks])
    room = (high / low) ** 0.06
    axes.set_ylim(low / room, high * room)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()
    axes.xaxis.minorticks_off()
    axes.margins(x=0.12, y=0.08)


def _exponent(law):
    """`: exponent -0.071 [-0.078, -0.064]`; why there is none where the sizes are too few."""
    if not law.exponents.n:
        return f" (no fit: fewer than {SIZES} sizes)" if len(law.points) < SIZES else ""
    return f": exponent {exponent_text(law)}"


def exponent_text(law):
    """The mean exponent and its 95 % interval over seeds."""
    interval = law.exponents.interval(1 - LEVEL)
    text = f"{law.exponents.mean:.4f}"
    text += "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    return text.replace("-", units.MINUS)


def table_html(study, judgement):
    """The same as a table: each arm's mean at each size, and its exponent."""
    found, shown = laws(study, judgement), judgement.shown
    sizes = list(dict.fromkeys(size for law in found.values() for size, _, _ in law.points))
    flops: dict[str, list[float]] = {}
    for law in found.values():
        for size, each, _ in law.points:
            flops.setdefault(size, []).append(each)
    head = ["arm", *(f"{size} ({_span(flops[size])})" for size in sizes), f"exponent [95{units.SPACE}%]"]
    rows = []
    for arm, law in found.items():
        at = {size: float(np.exp(np.mean(np.log(list(values.values()))))) for size, _, values in law.points}
        cells = [shown.number(at[size]) if size in at else units.DASH for size in sizes]
        rows.append([arm, *cells, exponent_text(law) if law.exponents.n else units.DASH])
    top = "".join(f"<th{' class=number' if i else ''}>{html.escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>{''.join(f'<td class=number>{html.escape(each)}</td>' for each in texts)}</tr>"
        for name, *texts in rows
    )
    note = (
        f"{shown.values}: geometric means over seeds. log {shown.short} = a + exponent x log FLOPs, one fit per seed; the interval "
        "is of one arm alone. Nothing is said beyond the largest size."
    )
    table = f"<table class=compact><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll>{table}</div><p class=note>{html.escape(note)}</p>"


def _span(numbers):
    low, high = units.flops(min(numbers)), units.flops(max(numbers))
    return low if low == high else f"{low} to {high}"
