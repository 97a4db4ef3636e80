"""The figures of a search: its front or its best so far, quality along each dimension, importances, and the trials' curves."""

import math
import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import drawing, thinning
from analysis.drawing import COLOURS, GRID, INK, MUTED, PAPER, WIDTH, styled
from analysis.importance import FEW, importances
from analysis.shown import Shown
from analysis.trials import Searched, best_so_far, searched, value_text
from arch.words import listed, times
from experiments.record import HISTORY_NAME

BLUE, ORANGE, GREEN = COLOURS[0], COLOURS[1], COLOURS[2]
COLUMNS = 3
# Of dimensions the first so many have a panel, and of curves so many are drawn, with so many points each.
MOST_PANELS, MOST_CURVES, POINTS = 24, 150, 60
# Of mixtures, so many of the best ones are drawn.
MOST_MIXTURES = 12


def figures(study):
    """{name: Figure} of a StudyData's search; none of a study without one, or before its first trial has ended."""
    found = searched(study.record)
    if found is None or not found.trials:
        return {}
    made = {
        "search_front": front(study, found) if len(found.objectives) > 1 else progress(study, found),
        "search_slices": slices(study, found),
        "search_mixtures": mixtures(study, found),
        "search_importance": importance(found),
        "search_curves": curves(study, found),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def _shown(study, name):
    return Shown(name, study.metric(name))


def _label(study, found, name):
    side = "lower is better" if found.objectives[name] == "minimise" else "higher is better"
    return f"{_shown(study, name).values}\n({side})"


@styled
def front(study, found: Searched):
    """A panel for each further objective against the first one, with the trials that no other dominates joined by a line.

    Trials without the first objective (pruned, infeasible, failed) stand below the panel at what is known of them: their cost.
    """
    first, *others = found.objectives
    done = [trial for trial in found.of("finished") if all(name in trial.objectives for name in found.objectives)]
    if not done:
        return None
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(1, len(others), squeeze=False, sharey=True)[0]
    # All that takes room stands before the names of points are placed, which lays the figure out once: ticks depend on the room.
    panels[0].set_ylabel(_label(study, found, first))
    on = sum(trial.number in found.front for trial in done)
    drawing.titled(panels[0], f"{times(len(done), 'finished trial')}; {on} on the front, which no other beats in every objective")
    _legend(figure, found)
    for axes, other in zip(panels, others, strict=True):
        _front(figure, axes, study, found, done, first, other)
    return figure


def _front(figure, axes, study, found, done, first, other):
    at = {trial.number: (trial.objectives[other], trial.objectives[first]) for trial in done}
    rest = [xy for number, xy in at.items() if number not in found.front]
    axes.plot(*_columns(rest), "o", color=MUTED, mfc="none", ms=5, mew=1, alpha=0.8)
    best = sorted(at[number] for number in found.front if number in at)
    if len(found.objectives) == 2:
        # Between two trials of the front nothing better is known than the worse of the two: a staircase.
        where = "post" if found.harm(other) > 0 else "pre"
        axes.step(*_columns(best), where=where, color=BLUE, lw=1.3, alpha=0.7)
    axes.plot(*_columns(best), "o", color=BLUE, ms=6.5, mec=PAPER, mew=0.7)
    shown, every = _shown(study, other), [trial.objectives[other] for trial in found.trials if other in trial.objectives]
    drawing.scale_x(axes, shown, min(every), max(every))
    _marks_below(axes, found, {trial.number: trial.objectives[other] for trial in found.trials if other in trial.objectives})
    axes.set_xlabel(_label(study, found, other))
    _winners(figure, axes, found, at)


# How a trial is marked that has no value of the first objective.
WITHOUT = {"infeasible": "x", "pruned": "v", "failed": "s"}


def _marks_below(axes, found, at):
    """Below the points of a panel, a mark for each trial without a value of the first objective. at: {trial: its x}."""
    axes.margins(y=0.14)
    if any(found.of(state) for state in WITHOUT):
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.1 * (high - low), high)
    for i, (state, marker) in enumerate(WITHOUT.items()):
        known = [at[trial.number] for trial in found.of(state) if trial.number in at]
        axes.plot(known, np.full(len(known), 0.02 + 0.035 * i), marker, color=MUTED, ms=5, transform=axes.get_xaxis_transform())


def _winners(figure, axes, found, at):
    """A ring around each winner, and its label beside it. at: {trial: (x, y)}."""
    winners = {label: at[number] for label, number in found.winners.items() if number in at}
    for x, y in winners.values():
        axes.plot([x], [y], "o", color=ORANGE, mfc="none", ms=12, mew=1.6)
    drawing.name_points(figure, axes, {label: (*xy, ORANGE) for label, xy in winners.items()})


def _legend(figure, found):
    figure.legend(handles=_handles(found), loc="outside lower left", ncols=6, labelcolor=INK, fontsize=8.5, handletextpad=0.2)


def _columns(points):
    return tuple(zip(*points, strict=True)) if points else ((), ())


def _handles(found):
    point = lambda label, **look: Line2D([], [], ls="", label=label, **look)  # noqa: E731
    several = len(found.objectives) > 1
    handles = [point("on the front", marker="o", color=BLUE)] if several else []
    handles.append(point("finished", marker="o", color=MUTED, mfc="none"))
    counts = found.counts
    handles += [point(f"{counts[state]} {state}", marker=mark, color=MUTED) for state, mark in WITHOUT.items() if state in counts]
    if found.winners:
        handles.append(point("chosen, and trained again", marker="o", color=ORANGE, mfc="none", ms=9))
    return handles


@styled
def progress(study, found: Searched):
    """The objective of every trial in their order, with the best so far as a line. None without a finished trial."""
    name = next(iter(found.objectives))
    done = [trial for trial in found.of("finished") if name in trial.objectives]
    if not done:
        return None
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([trial.number for trial in done], [trial.objectives[name] for trial in done], "o", color=MUTED, mfc="none", ms=5)
    steps = best_so_far(found)
    last = max(trial.number for trial in found.trials)
    axes.step([*(at for at, _ in steps), last], [*(value for _, value in steps), steps[-1][1]], where="post", color=BLUE)
    _marks_below(axes, found, {trial.number: trial.number for trial in found.trials})
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(study, found, name))
    drawing.titled(axes, f"Best so far over {times(len(found.trials), 'trial')}: the last improvement came at trial {steps[-1][0]}")
    _winners(figure, axes, found, {trial.number: (trial.number, trial.objectives[name]) for trial in done})
    _legend(figure, found)
    return figure


@styled
def slices(study, found: Searched):
    """The first objective of the finished trials along each dimension, a panel each. None without a finished trial."""
    name = next(iter(found.objectives))
    done = [trial for trial in found.of("finished") if name in trial.objectives]
    dimensions = [each for each in found.dimensions if any(each.name in trial.values for trial in done)][:MOST_PANELS]
    if not dimensions:
        return None
    columns = min(COLUMNS, len(dimensions))
    rows = math.ceil(len(dimensions) / columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    for axes, each in zip(panels, dimensions, strict=False):
        _slice(axes, found, [trial for trial in done if each.name in trial.values and each.is_of(trial)], each, name)
    figure.supylabel(_label(study, found, name), fontsize=9.5, color=MUTED)
    what = "blue: on the front; " if len(found.objectives) > 1 else ""
    figure.supxlabel(f"finished trials; {what}orange: chosen; other dimensions vary too", fontsize=9, color=MUTED)
    return figure


def _slice(axes, found, trials, each, name):
    winners = set(found.winners.values())
    names = [text for text in each.names if any(_text(trial, each) == text for trial in trials)] if not each.is_range else []
    for trial in trials:
        x = trial.values[each.name] if each.is_range else names.index(_text(trial, each)) + 0.5 * _aside(trial.number)
        on, won = trial.number in found.front and len(found.objectives) > 1, trial.number in winners
        colour, inner = (BLUE, BLUE) if on else (MUTED, "none")
        axes.plot([x], [trial.objectives[name]], "o", color=colour, mfc=inner, ms=4.5, mew=1, alpha=0.8)
        if won:
            axes.plot([x], [trial.objectives[name]], "o", color=ORANGE, mfc="none", ms=10, mew=1.5)
    if names:
        axes.set_xticks(range(len(names)), [text if len(text) < 13 else f"{text[:11]}…" for text in names], fontsize=8)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.grid(axis="x", visible=False)
        for i, text in enumerate(names):
            values = [trial.objectives[name] for trial in trials if _text(trial, each) == text]
            axes.plot([i - 0.3, i + 0.3], [np.median(values)] * 2, color=INK, lw=1.4)
    else:
        if each.log:
            axes.set_xscale("log")
            axes.set_xticks([each.low, math.sqrt(each.low * each.high), each.high])
            axes.xaxis.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2g}" if x < 100 else f"{x:g}"))
    below = f"\nwhere {', '.join(f'{key} = {value}' for key, value in each.under.items())}" if each.under else ""
    axes.set_title(f"{each.short}{below}", fontsize=8.5)


def _text(trial, each):
    return value_text(trial.values[each.name])


@styled
def mixtures(study, found: Searched):
    """The mixtures of the best finished trials, a panel for each mixture of the space, a bar for each trial; None without any."""
    name = next(iter(found.objectives))
    named = {each.mixture: [part for part in found.dimensions if part.mixture == each.mixture] for each in found.dimensions}
    named.pop("", None)
    done = [trial for trial in found.of("finished") if name in trial.objectives]
    best = sorted(done, key=lambda trial: found.harm(name) * trial.objectives[name])[:MOST_MIXTURES]
    if not named or not best:
        return None
    figure = Figure(figsize=(WIDTH, 1.4 + len(named) * (0.6 + 0.28 * len(best))), layout="constrained")
    winners, value = {number: label for label, number in found.winners.items()}, _shown(study, name).number
    for axes, (mixture, parts) in zip(figure.subplots(len(named), 1, squeeze=False)[:, 0], named.items(), strict=True):
        rows = [trial for trial in best if parts[0].name in trial.values and parts[0].is_of(trial)]
        left = np.zeros(len(rows))
        for i, part in enumerate(parts):
            width = np.array([float(trial.values[part.name]) for trial in rows])
            axes.barh(range(len(rows)), width, left=left, height=0.7, color=COLOURS[i % len(COLOURS)], lw=0, label=part.short)
            left += width
        labels = [f"{winners.get(trial.number, f'trial {trial.number}')}: {value(trial.objectives[name])}" for trial in rows]
        axes.set_yticks(range(len(rows)), labels, color=INK, fontsize=8.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8.5, frameon=False, handlelength=1)
        axes.set_xlabel(f"{mixture}: share of each part")
    figure.supylabel(_shown(study, name).values, fontsize=9.5, color=MUTED)
    return figure


def _aside(number):
    """A place from -0.5 to 0.5 that spreads points of one choice; the same in every report."""
    return (number * 0.618034) % 1 - 0.5


@styled
def importance(found: Searched):
    """The importance of each dimension with its spread, and what chance reaches. None with too few finished trials."""
    rows = importances(found)
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes, short = figure.subplots(), {each.name: each.short for each in found.dimensions}
    right = min(1.0, 1.15 * max(max(each.share, each.high) for each in rows))
    for row, each in enumerate(rows):
        colour = BLUE if each.is_seen else MUTED
        axes.barh(row, each.share, height=0.56, color=colour, alpha=0.75, lw=0)
        axes.plot([each.low, each.high], [row, row], color=INK, lw=1.4)
        if each.chance < right:
            axes.plot([each.chance] * 2, [row - 0.36, row + 0.36], color=ORANGE, lw=2)
        else:  # few trials: everything is within chance
            axes.plot([0.995], [row], ">", color=ORANGE, ms=6, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(rows)), [short[each.name] for each in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, right)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    axes.set_xlabel(
        "share of all importance; line: middle 90 % over redrawn trials;\norange: what chance alone exceeds in 5 % of cases"
    )
    done = len(found.of("finished"))
    few = f"; {done} trials are few" if done < FEW else ""
    seen = [short[each.name] for each in rows if each.is_seen]
    said = f"More than chance: {listed(seen)}" if seen else "No dimension is more important than chance explains"
    heading = textwrap.fill(f"{said} ({times(done, 'finished trial')}{few})", 84)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


@styled
def curves(study, found: Searched):
    """The first objective that training measures over the steps of every trial's run; None if no run has such a curve.

    A pruned trial ends early, at a triangle. Curves are thinned to POINTS points (`analysis.thinning`).
    """
    name = next((name for name in found.objectives if name.startswith("select/")), None)
    if name is None:
        return None
    chosen = {*found.front, *found.winners.values()} if len(found.objectives) > 1 else set(found.winners.values())
    # The chosen ones first, so that a large search leaves out others.
    order = sorted((trial for trial in found.trials if trial.runs), key=lambda trial: trial.number not in chosen)
    drawn = _histories(study, order, name)
    if drawn and max(len(steps) for steps, _ in drawn.values()) < 2:  # evaluated once, at the end
        name = "train/loss"
        drawn = _histories(study, order, name)
    if not drawn:
        return None
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes, label = figure.subplots(), {number: label for label, number in found.winners.items()}
    states = {trial.number: trial.state for trial in found.trials}
    for number, (steps, values) in reversed(drawn.items()):
        pruned, won = states[number] == "pruned", number in label
        colour = ORANGE if won else MUTED if not pruned else GREEN
        axes.plot(steps, values, color=colour, lw=1.9 if won else 0.9, alpha=1 if won else 0.55, zorder=3 if won else 2)
        if pruned:
            axes.plot(steps[-1:], values[-1:], "v", color=GREEN, ms=5)
        if won:
            axes.annotate(
                label[number], (steps[-1], values[-1]), (5, 0), textcoords="offset points", color=ORANGE, fontsize=8.5, va="center"
            )
    _later_part(axes, drawn, [number for number, state in states.items() if state == "pruned" and number in drawn])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel(f"step; orange: chosen{'; green, to a triangle: pruned' if found.of('pruned') else ''}")
    axes.set_ylabel(_shown(study, name).values)
    left = len([trial for trial in found.trials if trial.runs]) - len(drawn)
    drawing.titled(axes, f"Curves of {times(len(drawn), 'trial')}{f' ({left} more are not drawn)' if left > 0 else ''}")
    axes.spines["bottom"].set_color(GRID)
    return figure


def _histories(study, trials, name):
    """{number: (steps, values)} of the first MOST_CURVES trials whose runs have the curve."""
    drawn = {}
    for trial in trials:
        curve = history(study.folder / next(iter(trial.runs.values())), name) if len(drawn) < MOST_CURVES else None
        if curve is not None:
            drawn[trial.number] = curve
    return drawn


def _later_part(axes, drawn, pruned):
    """Limit y to what curves show after the first part of training, in which the loss falls by far more, and to pruned ends."""
    last = max(steps[-1] for steps, _ in drawn.values())
    late = [values[steps >= drawing.SKIPPED * last] for steps, values in drawn.values()]
    late = np.concatenate([each for each in late if len(each)])
    low, high = late.min(), max([np.quantile(late, 0.98), *(drawn[number][1][-1] for number in pruned)])
    if len(late) > 3 and high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.1 * (high - low))


def history(folder, name):
    """(steps, values) of a column of a run's curves, thinned; None if there is none that can be read."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(folder / HISTORY_NAME).read(columns=["step", name], use_threads=False)
    except (OSError, ValueError):
        return None
    if name not in table.column_names:
        return None
    steps, values = table["step"].to_numpy(), table[name].to_numpy()
    there = np.isfinite(values)
    steps, values = steps[there], values[there]
    if not len(steps):
        return None
    kept = thinning.thinned(steps, values, POINTS)
    return steps[kept], values[kept]
