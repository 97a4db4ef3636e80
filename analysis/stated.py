"""The figure of claims that are true or false: of each the difference that it is about.

The figure of all arms compares them with the first arm. A claim may be about another difference: `A is better than B`, or `A is 5`.
"""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.claims import Judgement, quantity, statement
from analysis.crowd import MANY
from analysis.drawing import INK, LONGEST, WIDTH, forest_row, looks, short, signed_tick, styled, titled

# Inches: of a row, and of what stands above and below the rows of an axis. Letters of a line of a statement, and most lines.
ROW, AROUND = 0.7, 0.75
LETTERS, LINES = LONGEST, 4
NOTE = "0 is what the claim compares with; bars are intervals of verdicts"

Row = tuple[Judgement, str]  # a judgement and one of its subjects


def rows(judged: Sequence[Judgement]) -> list[Row]:
    """The statements that say how an arm or a comparison differs from another arm or a value, and have an interval.

    None unless the first claim is such a statement; none either where all are about differences from the first arm, which the
    figure of all arms shows. An exact number has no interval.
    """
    if not judged or judged[0].per_arm:
        return []
    stated = [(each, subject) for each in judged if not each.per_arm for subject in each.verdicts if subject in each.differences]
    drawn = [(each, subject) for each, subject in stated if _wide(each.verdicts[subject].interval)]
    first = judged[0].baseline
    elsewhere = any(each.contrasts or each.verdicts[subject].against != first for each, subject in drawn)
    return drawn if elsewhere else []


@styled
def figure(judged: Sequence[Judgement]) -> Figure | None:
    """The statements of all claims, a row each: the mean, the interval of the verdict, seeds as small dots. None without `rows`."""
    every_row = rows(judged)
    drawn = every_row[:MANY]
    if not drawn:
        return None
    groups: dict[tuple[str, str], list[Row]] = {}  # those with one unit share an axis
    for judgement, subject in drawn:
        shown = judgement.shown
        groups.setdefault((shown.unit, "perplexity" if shown.relative else shown.quantity), []).append((judgement, subject))
    heights = [AROUND + ROW * len(group) for group in groups.values()]
    made = Figure(figsize=(WIDTH, 0.6 + sum(heights)), layout="constrained")
    every = made.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, group in zip(every, groups.values(), strict=True):
        _axis(axes, group)
    notes = [NOTE] + ["dots single seeds"] * any(map(_seeds, drawn))
    notes += [f"the first {MANY} of {len(every_row)} claims"] * (len(every_row) > MANY)
    every[-1].set_xlabel(f"{every[-1].get_xlabel()}\n{', '.join(notes)}", wrap=True)
    titled(every[0], "What was claimed, and what was seen")
    return made


def _axis(axes: Axes, group: list[Row]) -> None:
    shown = [judgement.shown for judgement, _ in group]
    quantities = list(dict.fromkeys(map(quantity, shown)))
    names = [statement(judgement, subject, judgement.verdicts[subject]) for judgement, subject in group]
    style = looks(["", *dict.fromkeys(names)])
    axes.axvline(0, color=INK, lw=1.2)
    for row, ((judgement, subject), name) in enumerate(zip(group, names, strict=True)):
        _row(axes, row, judgement, subject, name, style[name])
    # What all rows share stands at the axis, and not in each.
    told = [_bare(*row) for row in group] if len(quantities) == 1 else names
    labels = [_label(subject, said) for (_, subject), said in zip(group, told, strict=True)]
    axes.set_yticks(range(len(group)), labels, color=INK, fontsize=8.8)
    axes.set_ylim(len(group) - 0.45, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed_tick(x)))
    axis = f"difference in {quantities[0]}" if len(quantities) == 1 else "difference"
    sides = {each.on_the_right for each in shown}
    side = f" ({side})" if len(sides) == 1 and (side := sides.pop()) else ""
    axes.set_xlabel(f"{', '.join(filter(None, [axis, shown[0].unit]))}{side}", wrap=True)


def _row(axes, row, judgement, subject, name, look):
    verdict, effect, seeds = judgement.verdicts[subject], judgement.shown.effect, _seeds((judgement, subject))
    bars, note = [(list(map(effect, verdict.interval)), 1.3)], f"{judgement.word(subject)}, n = {verdict.n}"
    forest_row(axes, row, name, look, seeds, bars, effect(verdict.difference), note)


def _seeds(row):
    """The differences of single seeds, as they are shown; none where no difference is that of a seed."""
    judgement, subject = row
    own = judgement.own.get(subject)
    return [judgement.shown.effect(value) for value in own.by_seed.values()] if own and own.paired else []


def _wide(interval):
    """Whether there is an interval, and it is not that of an exact number."""
    return interval is not None and interval[0] < interval[1]


def _bare(judgement, subject):
    """The statement without its quantity."""
    return judgement.claim.statement(subject, judgement.verdicts[subject], judgement.shown.metric)


def _label(subject, said):
    """A statement in lines that fit beside a row; the arm that it begins with has the first."""
    rest = said.removeprefix(f"{subject} ")
    parts = [said] if rest == said else [short(subject), rest]
    lines = [line for part in parts for line in textwrap.wrap(part, LETTERS)]
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1]} …"])
