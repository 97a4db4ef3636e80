"""The figure of a study with a `grid`: lines for the levels of one factor over the levels of another, and the same as tables.

Parallel lines: no interaction. Seeds differ by more than arms do, and the same in every cell; so each seed's mean over the
cells is taken out before the intervals are formed (Cousineau 2005, with the factor of Morey 2008). They show how the cells
differ, not where the mean of another study would lie.
"""

import html
import math
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from matplotlib.figure import Figure

from analysis import drawing
from arch import units
from sweeps.contrasts import cell, cells
from sweeps.stats import LEVEL, Sample, mean_interval, weighted

COLUMNS = 2


@dataclass(frozen=True)
class Panel:
    """Two factors. across: on the x axis. lines: the other factor. values: {(level of across, level of lines): {seed: value}}

    on the scale of the metric, averaged over the cells of further factors. size: of a ladder, or empty.
    """

    across: str
    lines: str
    levels: tuple[str, ...]
    changes: tuple[str, ...]
    values: dict[tuple[str, str], dict[int, float]]
    size: str = ""

    @property
    def title(self):
        """`cap over W`; the size of a ladder after it."""
        return f"{self.lines} over {self.across}{f', size {self.size}' if self.size else ''}"


def panels(study, judgement):
    """The Panels of a study with a grid of at least two factors that has runs; none for another study."""
    spec = study.record.spec
    grid = {factor: list(levels) for factor, levels in (spec.get("grid") or {}).items()}
    sizes = list((spec.get("ladder") or {}).get("sizes", [""]))
    made = []
    for size, (one, other) in product(sizes, combinations(grid, 2)):
        # More levels are easier to read along an axis than as lines.
        across, lines = (one, other) if len(grid[one]) >= len(grid[other]) else (other, one)
        values = {
            key: _averaged(judgement.scaled, grid, dict(zip((across, lines), key, strict=True)), size)
            for key in product(grid[across], grid[lines])
        }
        values = {key: each for key, each in values.items() if each}
        if len(values) > 1:
            made.append(Panel(across, lines, tuple(grid[across]), tuple(grid[lines]), values, size))
    return made


def _averaged(scaled, grid, fixed, size):
    """{seed: mean over the cells with the `fixed` levels, over the seeds that all of them have}."""
    labels = [label for label, levels in cells(grid).items() if all(levels[each] == fixed[each] for each in fixed)]
    labels = [f"{label} {size}" if size else label for label in labels]
    there = [scaled[label] for label in labels if scaled.get(label)]
    seeds = [seed for seed in there[0] if all(seed in each for each in there)] if there else []
    return {seed: float(np.mean([each[seed] for each in there])) for seed in seeds}


def within_seeds(values):
    """{key: Estimate} of {key: {seed: value}}: means, and intervals without what all keys share within a seed."""
    seeds = [seed for seed in next(iter(values.values())) if all(seed in each for each in values.values())]
    if len(seeds) < 2:
        return {key: mean_interval(list(each.values())[:1]) for key, each in values.items()}
    table = np.array([[each[seed] for seed in seeds] for each in values.values()])
    centred = table - table.mean(axis=0) + table.mean()
    # Taking out the mean of k cells leaves (k - 1) / k of the variance.
    wider = math.sqrt(len(values) / max(1, len(values) - 1))
    means = centred.mean(axis=1, keepdims=True)
    spread = means + wider * (centred - means)
    return {key: mean_interval(row) for key, row in zip(values, spread, strict=True)}


@drawing.styled
def figure(study, judgement):
    """A Figure with a panel for each two factors; None for a study without a grid of two factors, or without runs."""
    found = panels(study, judgement)
    if not found:
        return None
    rows, columns = math.ceil(len(found) / COLUMNS), min(COLUMNS, len(found))
    drawn = Figure(figsize=(drawing.WIDTH, 3.7 * rows), layout="constrained")
    places = drawn.subplots(rows, columns, squeeze=False)
    for axes in places.ravel()[len(found) :]:
        axes.set_visible(False)
    for axes, panel in zip(places.ravel(), found, strict=False):
        _panel(axes, panel, judgement)
    note = f"means and 95{units.SPACE}% intervals of the cells, without what a seed shares"
    drawn.supxlabel(f"{note}; parallel lines: no interaction", fontsize=9, color=drawing.MUTED)
    return drawn


def _panel(axes, panel, judgement):
    shown, looks = judgement.shown, drawing.looks(panel.changes)
    estimates = within_seeds(panel.values)
    ends = []
    for i, change in enumerate(panel.changes):
        points = [(x, estimates[level, change]) for x, level in enumerate(panel.levels) if (level, change) in estimates]
        if not points:
            continue
        look = looks[change]
        # Side by side, so that bars of two lines do not hide each other.
        at = [x + 0.05 * (i - (len(panel.changes) - 1) / 2) for x, _ in points]
        means = [shown.headline(each.mean) for _, each in points]
        lows, highs = ([shown.headline(getattr(each, end)) for _, each in points] for end in ("low", "high"))
        bars = None if None in lows else [np.subtract(means, lows), np.subtract(highs, means)]
        point = {"color": look.colour, "marker": look.marker, "ls": look.line, "ms": 8, "mec": drawing.PAPER, "mew": 0.8}
        axes.errorbar(at, means, yerr=bars, elinewidth=1.5, label=f"{panel.lines}={change}", **point)
        ends.append((at[-1], means[-1]))
    axes.set_xticks(range(len(panel.levels)), panel.levels)
    axes.set_xlim(-0.4, len(panel.levels) - 0.6)
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(f"{shown.quantity} ({shown.better})" if shown.better else shown.quantity)
    axes.legend(loc="best", labelcolor=drawing.INK, fontsize=9)
    drawing.titled(axes, f"{panel.title}{_words(panel, judgement)}")


def _words(panel, judgement):
    """`: no interaction`, the words on the interactions of a panel's factors, if the study asks about them."""
    words = [
        judgement.word(subject)
        for subject, each in judgement.contrasts.items()
        if each.at and each.size == panel.size and {each.effect.split("=")[0], each.at.split("=")[0]} == {panel.across, panel.lines}
    ]
    return f": {', '.join(dict.fromkeys(words))}" if any(words) else ""


def tables_html(study, judgement):
    """The same numbers as tables: a row per level, the mean of each cell, and what each level of the other factor changes."""
    return "".join(_table(panel, judgement.shown) for panel in panels(study, judgement))


def _table(panel, shown):
    first, *others = panel.changes
    head = [panel.across, *(f"{panel.lines}={change}" for change in panel.changes)]
    head += [f"{panel.lines}={change} against {first} [95{units.SPACE}%]" for change in others]
    rows = []
    for level in panel.levels:
        here = {change: panel.values.get((level, change), {}) for change in panel.changes}
        means = [_mean(each, shown) for each in here.values()]
        effects = [_effect(here, change, first, shown) for change in others]
        rows.append([cell({panel.across: level}), *means, *effects])
    top = "".join(f"<th{' class=number' if i else ''}>{html.escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>{''.join(f'<td class=number>{html.escape(text)}</td>' for text in texts)}</tr>"
        for name, *texts in rows
    )
    note = "Intervals in this table are each of one difference alone, within seeds; verdicts use those of the comparisons."
    heading = f"{shown.quantity}: {panel.title}"
    return (
        f"<h3>{html.escape(heading)}</h3><div class=scroll><table class=compact><thead><tr>{top}</tr></thead><tbody>{body}"
        f"</tbody></table></div><p class=note>{note}</p>"
    )


def _mean(values, shown):
    return shown.number(shown.headline(Sample(values).mean)) if values else units.DASH


def _effect(here, change, first, shown):
    if not here[change] or not here[first]:
        return units.DASH
    if not {*here[change]} & {*here[first]}:
        return units.DASH  # their seeds are others
    sample = weighted(here, {change: 1.0, first: -1.0})
    if not sample.n:
        return units.DASH
    text, interval = shown.change(shown.effect(sample.mean)), sample.interval(1 - LEVEL)
    return text if interval is None else f"{text} {shown.change_interval(*map(shown.effect, interval))}"
