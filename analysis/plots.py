"""The figures of a study. Each function returns a matplotlib Figure (`analysis.drawing`)."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import claims, crowd, interaction, scaling, stated
from analysis.curves import bands_and_differences
from analysis.drawing import (
    INK,
    MUTED,
    PAPER,
    SKIPPED,
    WIDTH,
    counted_seeds,
    forest_row,
    legend_above,
    looks,
    name_points,
    scale_x,
    short,
    signed_tick,
    styled,
    titled,
)
from analysis.shown import Shown
from arch import units
from arch.words import listed_names
from experiments.metrics import CACHE, context_of, is_cost
from sweeps.compare import bounds, harm, off_scale, on_scale
from sweeps.folders import safe_name
from sweeps.stats import mean_interval


def figures(study, judgement, judged=()):
    """{name: Figure} for all figures that this study has data for, in the report's order. judged: of all claims."""
    made = {
        "claims": stated.figure(judged),
        "differences": differences(study, judgement, judged),
        "interaction": interaction.figure(study, judgement),
        "scaling": scaling.figure(study, judgement),
        **{name: quality_against(study, judgement, axis) for name, axis in quality_axes(study).items()},
        "curves": learning_curves(study, judgement),
        "tuning": tuning(study, judgement),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


@styled
def differences(study, judgement, judged=()):
    """Each arm's paired difference to the baseline, or each comparison: mean, intervals, seeds as small dots, the margin shaded.

    The intervals are those of the verdict: an arm is worse or better if its thin bar excludes zero, and no different if
    its thick bar lies inside the margin. None if no arm has a seed in common with the baseline. judged: of all claims. Where
    claims are true or false, an arm has the interval and the words of those of them that are about its difference.
    """
    subjects = judgement.differences.items()
    compared = [arm for arm, difference in subjects if (judgement.contrasts or arm != judgement.baseline) and difference.n]
    if not compared:
        return None
    named = crowd.named(study, judgement)
    arms = compared if judgement.contrasts else [arm for arm in compared if arm in named]
    if others := [arm for arm in compared if arm not in arms]:
        order = {arm: place for place, arm in enumerate(crowd.ranked(judgement))}
        arms.sort(key=lambda arm: order[arm])
        arms.insert(sum(order[arm] < len(order) / 2 for arm in arms), f"{len(others)} others")
    figure = Figure(figsize=(WIDTH, 1.25 + 0.52 * len(arms)), layout="constrained")
    axes, shown, margin = figure.subplots(), judgement.shown, judgement.margin
    style = looks(["", *arms]) if judgement.contrasts else crowd.looks(study, judgement)
    if margin is not None:
        axes.axvspan(*map(shown.effect, bounds(margin, shown.metric)), color=MUTED, alpha=0.13, lw=0)
    axes.axvline(0, color=INK, lw=1.2)
    for row, arm in enumerate(arms):
        if arm in judgement.differences:
            _difference(axes, row, judgement, arm, style[arm], _stated(judgement, arm, judged))
        else:
            _crowd(axes, row, [shown.effect(judgement.differences[other].mean) for other in others])
    axes.set_yticks(range(len(arms)), list(map(short, arms)), color=INK)
    axes.set_ylim(len(arms) - 0.45, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed_tick(x)))
    side = f" ({shown.on_the_right})" if shown.on_the_right else ""
    verdicts = [verdict for arm in arms if (verdict := judgement.about(arm))]
    has_stated = any(_stated(judgement, arm, judged) for arm in arms)
    notes_of_others = ["of the others each dot is an arm's mean, bars their quartiles and median"] if others else []
    notes = ["thin bar: excludes zero if worse or better"] if any(each.interval for each in verdicts) else []
    notes += ["thick bar: inside the shaded margin if no different"] if any(each.inner for each in verdicts) else []
    notes += ["bar: interval of the verdict, with 95 % together"] if has_stated else []
    axis = ", ".join(filter(None, [f"difference in {shown.quantity}", shown.unit]))
    axis = axis if judgement.contrasts else shown.axis(judgement.baseline)
    below = "\n".join(filter(None, ["; ".join(notes), *notes_of_others]))
    dots = "small dots are single seeds" if judgement.paired else "small dots are single seeds, where arms share them"
    axes.set_xlabel(f"{axis}{side}; {dots}\n{below}".rstrip(), wrap=True)
    titled(axes, claims.summary(judgement, short))
    return figure


def _stated(judgement, arm, judged):
    """[(word, Verdict)] of the claims that are true or false and are about just this difference."""
    if judgement.per_arm or arm not in judgement.differences:
        return []
    mean = judgement.differences[arm].mean
    alike = [each for each in judged if not each.per_arm and each.shown.name == judgement.shown.name and arm in each.verdicts]
    about = [(each.word(arm), each.verdicts[arm]) for each in alike]
    own = arm in judgement.contrasts  # else a row is the difference from the baseline
    return [
        (word, each)
        for word, each in about
        if (own or each.against == judgement.baseline) and each.interval and each.difference == mean
    ]


def _difference(axes, row, judgement, arm, look, stated):
    difference, effect = judgement.differences[arm], judgement.shown.effect
    verdict = judgement.about(arm) or (stated[0][1] if stated else None)
    # Without pairing, no difference is that of a seed.
    seeds = [effect(value) for value in difference.by_seed.values()] if difference.paired else []
    both = [(verdict.interval, 1.3), (verdict.inner, 3.4)] if verdict else []
    bars = [(list(map(effect, interval)), width) for interval, width in both if interval is not None]
    words = dict.fromkeys(word for word, _ in stated) or [judgement.word(arm) if judgement.beside(arm) else ""]
    note = ", ".join(filter(None, [*words, f"n = {difference.n}"]))
    forest_row(axes, row, arm, look, seeds, bars, effect(difference.mean), note)


def _crowd(axes, row, effects):
    """Many arms in one row: a dot each, with the quartiles and the median of their means."""
    low, middle, high = np.quantile(effects, [0.25, 0.5, 0.75])
    axes.plot(effects, np.full(len(effects), row + 0.2), ".", color=MUTED, ms=3, alpha=0.35, mew=0)
    axes.plot([low, high], [row, row], color=MUTED, lw=3.4, solid_capstyle="round")
    axes.plot([middle], [row], "|", color=INK, ms=11, mew=1.6)


def quality_axes(study):
    """{name of a figure: the metric or cost on its x axis}, as the study's spec asks; by default cache and speed."""
    cache = f"{CACHE}@{study.record.long_context}"
    names = (study.record.spec.get("figures") or {}).get("x") or [cache, "speed/tokens_per_second"]
    short = {cache: "cache", "speed/tokens_per_second": "speed", "memory/peak_bytes": "memory"}
    return {f"quality_{short.get(name) or safe_name(name.replace('/', '_'))}": name for name in names}


def axis_title(study, name):
    """What a figure's x axis is called in a heading: `cache size` at the study's long context, else the metric's title."""
    return "cache size" if name == f"{CACHE}@{study.record.long_context}" else Shown(name, study.metric(name)).short


@styled
def quality_against(study, judgement, name):
    """The headline number (mean, 95 % interval) against a metric or a cost, `name`; None if no arm has both.

    A metric that was measured has a bar from the least to the most of the finished runs. The x axis is logarithmic where
    it spans more than a factor of three.
    """
    scaled, shown, named = judgement.scaled, judgement.shown, crowd.named(study, judgement)
    style, x = crowd.looks(study, judgement), _on_axis(study, scaled, name)
    points = {arm: mean_interval(list(scaled[arm].values())) for arm in scaled if scaled[arm] and x[arm]}
    if not points:
        return None
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    if others := [arm for arm in points if arm not in named]:
        means = [shown.headline(points[arm].mean) for arm in others]
        axes.plot([x[arm][1] for arm in others], means, ".", color=MUTED, ms=5, alpha=0.45, mew=0)
    for arm, estimate in points.items():
        if arm in others:
            continue
        mean, look, (low_x, at, high_x) = shown.headline(estimate.mean), style[arm], x[arm]
        low, high = shown.headline(estimate.low), shown.headline(estimate.high)
        bars = None if low is None else [[mean - low], [high - mean]]
        wide = None if low_x == high_x else [[at - low_x], [high_x - at]]
        point = {"color": look.colour, "marker": look.marker, "ms": 9, "mec": PAPER, "mew": 0.8}
        axes.errorbar([at], [mean], xerr=wide, yerr=bars, elinewidth=1.6, label=arm, **point)
    axes.margins(y=0.12)
    scale_x(axes, Shown(name, study.metric(name)), min(x[arm][0] for arm in points), max(x[arm][2] for arm in points))
    axes.set_xlabel(_x_label(study, name, any(x[arm][0] < x[arm][2] for arm in points)))
    axes.set_ylabel(f"{shown.quantity} ({shown.better})" if shown.better else shown.quantity)
    titled(axes, f"Quality against {axis_title(study, name)}: {counted_seeds(estimate.n for estimate in points.values())}")
    labelled = {arm: e for arm, e in points.items() if arm in named}
    name_points(figure, axes, {arm: (x[arm][1], shown.headline(e.mean), style[arm].colour) for arm, e in labelled.items()})
    return figure


def _on_axis(study, arms, name):
    """{arm: (least, mean, most)} of a metric over an arm's finished runs, or of its cost; None for an arm that has none."""
    if is_cost(name):
        costs = {arm: study.cost(arm, name) for arm in arms}
        return {arm: None if value is None else (value, value, value) for arm, value in costs.items()}
    metric, found = study.metric(name), {arm: list(values.values()) for arm, values in study.values(name).items()}
    mean = lambda values: off_scale(float(np.mean([on_scale(value, metric) for value in values])), metric)  # noqa: E731
    return {arm: (min(found[arm]), mean(found[arm]), max(found[arm])) if found[arm] else None for arm in arms}


def _x_label(study, name, spread):
    """`training speed, tokens/s (right is better)`; what the bars are, if there are any."""
    shown = Shown(name, study.metric(name))
    if (tokens := context_of(name)) is not None and name.startswith(CACHE):
        return f"cache for one sequence of {units.context(tokens)} (left is cheaper)"
    side = {"lower": " (left is cheaper)", "higher": " (right is better)"}.get(shown.metric.better, "")
    bars = "; bars: least and most over the runs" if spread else ""
    return f"{shown.values}{side}{bars}"


@styled
def learning_curves(study, judgement):
    """A claim's metric on the select split over tokens, and the paired difference to the baseline during training.

    Bands are 95 % over seeds. With fewer than two evaluations, the curves are those of the training loss. None if no finished
    run has a curve of two points.
    """
    named = crowd.named(study, judgement)
    for name in (curve_of(study, judgement.shown), "train/loss"):
        values, against = bands_and_differences(study, name, arms=named)
        curves = {arm: band for arm, band in values.items() if len(band) > 1}
        if curves:
            break
    else:
        return None
    shown = Shown(name, study.metric(name))
    paired = {arm: band for arm, band in against.items() if len(band) > 1}
    style = crowd.looks(study, judgement)
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2) if paired else (figure.subplots(), None)
    figure.get_layout_engine().set(wspace=0.09)
    _bands(left, curves, style)
    left.set_ylabel(shown.values)
    titled(left, f"{shown.short[0].upper()}{shown.short[1:]} after the first third of training")
    if paired:
        right.axhline(0, color=INK, lw=1.2)
        _bands(right, paired, style, scale=100 if shown.relative else 1)
        right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: signed_tick(y)))
        right.set_ylabel(shown.axis(study.baseline))
        titled(right, "Paired difference during training")
    for axes in (left, right) if paired else (left,):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: units.count(x, 2) if x else "0"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    label = f"tokens ({counted_seeds(band.n.iloc[-1] for band in curves.values())})"
    figure.supxlabel(label, fontsize=9.5, color=MUTED)
    legend_above(figure, {line.get_label(): line for line in left.get_lines()})
    return figure


def curve_of(study, shown):
    """The column of the curves that shows a claim's metric: the same metric on the select split, else the loss there."""
    name = f"select/{shown.name.rpartition('/')[2]}"
    return name if any(name in columns for columns in study.histories.values()) else "select/loss"


def _bands(axes, curves, style, scale=1):
    for arm, band in curves.items():
        look, x = style[arm], band.index.to_numpy()
        axes.plot(x, scale * band["mean"], look.line, color=look.colour, label=arm, zorder=3)
        if band.low.notna().any():
            axes.fill_between(x, scale * band.low, scale * band.high, color=look.colour, alpha=0.13, lw=0, label=arm)
    last = max(band.index.max() for band in curves.values())
    late = [scale * band[band.index >= SKIPPED * last] for band in curves.values()]
    _limit(axes, late)
    axes.set_xlim(SKIPPED * last if all(len(band) > 1 for band in late) else None, last)


def _limit(axes, late):
    """Set y limits that show every mean of the later part, and the bands unless they are much wider than the means."""
    means = np.concatenate([band["mean"] for band in late])
    ends = np.concatenate([band[["low", "high"]].to_numpy().ravel() for band in late])
    low, high = means.min(), means.max()
    room = max(high - low, 1e-9)
    kept = ends[np.isfinite(ends) & (ends > low - 0.6 * room) & (ends < high + 0.6 * room)]
    low, high = min([low, *kept]), max([high, *kept])
    axes.set_ylim(low - 0.06 * (high - low + 1e-9), high + 0.06 * (high - low + 1e-9))


@styled
def tuning(study, judgement):
    """The tuning metric against each tuned value, one line per arm. None if no trial finished.

    The values that were chosen are marked: one for each tuning seed, at the vertex between grid points. One at an end of
    its range is drawn hollow, and the title names the arm, since the true best may lie beyond; unless the end is the
    key's own bound.
    """
    done = [trial for trial in study.record.trials if trial.arm and trial.value is not None]
    keys = list(dict.fromkeys(key for trial in done for key in trial.values))
    if not keys:
        return None
    named, style = crowd.named(study, judgement), crowd.looks(study, judgement)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for axes, key in zip(panels, keys, strict=True):
        _tuned(axes, study, done, key, {arm: style[arm] for arm in named})
    panels[0].set_ylabel(_tuned_on(study).values)
    legend_above(figure, {line.get_label(): line for line in panels[0].get_lines() if line.get_label() in named})
    return figure


def _tuned_on(study):
    """The metric that chose the tuned values, as Shown."""
    name = (study.record.spec.get("tune") or {}).get("metric", "select/loss")
    return Shown(name, study.metric(name))


def _tuned(axes, study, done, key, style):
    at_edge, tuned, metric = [], 0, _tuned_on(study).metric
    tried = sorted({trial.values[key] for trial in study.record.trials if key in trial.values})
    space = study.record.tune_space.get(key, {})
    low, high, log = space.get("low", tried[0]), space.get("high", tried[-1]), space.get("log", True)
    scale = math.log if log else float
    for arm in study.record.arms:
        means = _tuning_means(done, arm, key)
        if not means:
            continue
        record = study.record.arms[arm]
        chosen = record.tuned.get(key) or [min(means, key=lambda value: harm(means[value], metric))]
        own = [trial.values[key] for trial in study.record.trials if trial.arm == arm and key in trial.values]
        ends = min(low, *own), max(high, *own)  # a range may have grown (`sweeps.beyond`)
        closed = record.bounds.get(key, ())
        open_ends = [end for end in ends if not any(math.isclose(end, each) for each in closed)]
        edges = [any(math.isclose(value, end) for end in open_ends) for value in chosen]
        tuned, at_edge = tuned + 1, [*at_edge, *[arm] * any(edges)]
        look = style.get(arm)
        if look is None:  # one of very many
            axes.plot(list(means), list(means.values()), color=MUTED, lw=0.8, alpha=0.35)
            continue
        axes.plot(list(means), list(means.values()), look.line, color=look.colour, marker=".", ms=5, lw=1.4, label=arm)
        for value, edge in zip(chosen, edges, strict=True):
            place = float(np.interp(scale(value), [scale(each) for each in means], list(means.values())))
            axes.plot([value], [place], look.marker, color=look.colour, mfc="none" if edge else look.colour, ms=9, mew=1.6)
    if log:
        axes.set_xscale("log")
    axes.set_xticks(tried if len(tried) <= 6 else tried[:: math.ceil(len(tried) / 6)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2g}"))
    axes.xaxis.minorticks_off()
    axes.set_xlabel(key)
    who = listed_names(at_edge) if len(at_edge) <= claims.NAMED else f"{len(at_edge)} of {tuned} arms"
    found = f"best at the edge of its range (hollow) for {who}" if at_edge else "every best is inside its range"
    titled(axes, f"Tuning on the select split: {found}")


def _tuning_means(done, arm, key):
    """{value: mean of the tuning metric over seeds and the other tuned keys}, ascending by value."""
    values = {}
    for trial in done:
        if trial.arm == arm and key in trial.values:
            values.setdefault(trial.values[key], []).append(trial.value)
    return {value: float(np.mean(values[value])) for value in sorted(values)}
