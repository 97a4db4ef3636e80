"""What evaluators measured, as a part of a page: figures of their charts, means beside them, metrics per arm; and as CSV."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import charts, forms, live
from analysis.drawing import Look
from analysis.evaluated import Evaluated, height, label, number, places, title
from analysis.forms import two_lines
from analysis.shown import Shown
from arch import units
from arch.contracts import Chart, Metric
from arch.spec import spelt
from arch.words import listed, times
from experiments.files import write_atomically
from experiments.metrics import NEXT_TOKEN

# A page prints so many rows of means; the CSV file has all.
LONGEST = 250
# So many metrics have a column each; more have a row each.
WIDEST = 5
NUMBERS = "evaluations.csv"


def section(
    evaluated: Sequence[Evaluated],
    arms: Sequence[str],
    told: Collection[str],
    heading: str,
    style: Mapping[str, Look] | None = None,
) -> str:
    """The section of a page; empty if there is nothing to show. told: metrics that the page shows elsewhere.

    style: see `charts.figures`.
    """
    figures = charts.figures(evaluated, arms, style)
    parts = [_one(each, figures, metrics) for each, metrics in to_show(evaluated, told)]
    return f"<section><h2>{html.escape(heading)}</h2>{''.join(parts)}</section>" if parts else ""


def to_show(evaluated: Sequence[Evaluated], told: Collection[str]) -> list[tuple[Evaluated, list[str]]]:
    """[(what was measured, the metrics to print of it)] of those that have something to show.

    The metrics of next-token prediction are the subject of the results table and of the curves, and what was measured on
    both splits is printed of the report split.
    """
    every = {name for each in evaluated for name in each.metrics}
    found = []
    for each in evaluated:
        metrics = [name for name in each.metrics if name not in told and not _repeats(name, every)]
        if metrics or each.charts:
            found.append((each, metrics))
    return found


def _repeats(name: str, every: Collection[str]) -> bool:
    split, _, last = name.partition("/")
    return last in NEXT_TOKEN or (split == "select" and f"report/{last}" in every)


def _one(each: Evaluated, figures: dict[str, Figure], metrics: Sequence[str]) -> str:
    parts = [f"<h3>{html.escape(heading(each))}</h3>"]
    remarks = list(_remarks(each))
    for name, chart in charts.named(each).items():
        if name in figures:
            means = each.over_seeds(chart)
            parts.append(live.pictured(figures[name], name, title(chart)))
            parts.append(f"<p class=note>{_caption(each, chart, means)}</p>")
            parts.append(_details(chart, means))
    if metrics:
        parts.append(f"<div class=scroll>{metrics_html(each, metrics)}</div>")
        if not each.charts:
            remarks.insert(0, f"{_seeds(each)} Measured by {_evaluator(each)}.")
    parts += [f"<p class=note>{remark}</p>" for remark in remarks]
    return "".join(parts)


def heading(each: Evaluated) -> str:
    """`needle on the report split: lengths: [64, 128]`, with the options where there are several."""
    return f"{each.name} on the {each.split} split{f': {each.options}' if each.options else ''}"


def _caption(each: Evaluated, chart: Chart, drawn: dict[str, pd.DataFrame]) -> str:
    """What is drawn, in a sentence or two: title, split, seeds, evaluator."""
    several = any(len(each.records[arm]) > 1 for arm in drawn)
    what = {"curve": "lines", "grid": "cells", "histogram": "outlines"}[chart.kind]
    band = ", bands span them" if several and chart.kind != "grid" else ""
    mean = f"{what} are means over {_count(len(each.records[arm]) for arm in drawn)}{band}" if several else "one seed"
    without = [arm for arm in each.records if arm not in drawn]
    nothing = f" Without a row of it: {html.escape(listed(without))}." if without else ""
    return f"{html.escape(title(chart))}, on the {html.escape(each.split)} split; {mean}. Measured by {_evaluator(each)}.{nothing}"


def _evaluator(each: Evaluated) -> str:
    """`by_position` (rows: 64), without the options that are empty."""
    given = {key: value for key, value in each.evaluator.items() if key != "type" and value not in (None, "", [], {})}
    options = ", ".join(f"{key}: {spelt(value)}" for key, value in given.items())
    short = options if len(options) <= 160 else f"{options[:159]}…"
    return f"<code>{html.escape(str(each.evaluator.get('type', each.name)))}</code>{f' ({html.escape(short)})' if short else ''}"


def _remarks(each: Evaluated) -> Iterable[str]:
    if each.absent:
        verbs = ("have", "are") if len(each.absent) > 1 else ("has", "is")
        absent = html.escape(listed(each.absent))
        yield f"{absent} {verbs[0]} no finished run with this evaluation and {verbs[1]} left out."
    if each.older:
        yield f"{times(each.older, 'file')} with the same options, by another version of the evaluator, left out."


def _count(counts: Iterable[int]) -> str:
    """`3 seeds`, `2 to 3 seeds`."""
    numbers = sorted(set(counts))
    return times(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"


def _seeds(each: Evaluated) -> str:
    counts = [len(runs) for runs in each.records.values()]
    return f"Means over {_count(counts)} with 95{units.SPACE}% t intervals." if max(counts) > 1 else "One seed."


def _details(chart: Chart, drawn: dict[str, pd.DataFrame]) -> str:
    """The means that a chart draws as a table that can be unfolded: a row per place, a column per arm."""
    roles = list(places(chart))
    frame = pd.concat([rows.set_index(roles)["mean"].rename(arm) for arm, rows in drawn.items()], axis=1, sort=False)
    head = "".join(f"<th>{html.escape(label(chart, column))}</th>" for column in places(chart).values())
    head += "".join(f"<th class=number>{html.escape(str(arm))}</th>" for arm in frame)
    rows = []
    for place, values in zip(frame.index[:LONGEST].tolist(), frame.to_numpy()[:LONGEST].tolist(), strict=True):
        where = place if isinstance(place, tuple) else (place,)
        cells = "".join(f"<td>{html.escape(charts.number_text(at) if number(at) is not None else at)}</td>" for at in where)
        rows.append(f"<tr>{cells}{''.join(f'<td class=number>{units.number(value)}</td>' for value in values)}</tr>")
    left = f"<p class=note>The first {LONGEST} of {len(frame):,} rows.</p>" if len(frame) > LONGEST else ""
    what = html.escape(label(chart, height(chart)))
    table = f"<div class=scroll><table class=compact><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    return f"<details><summary>Means as a table: {what}</summary>{table}{left}</details>"


def metrics_html(each: Evaluated, metrics: Sequence[str]) -> str:
    """Means and intervals of metrics per arm. The longer of the two stands in rows."""
    arms = list(each.records)
    if len(metrics) <= WIDEST:
        head = "".join(f"<th class=number>{_metric_heading(each, name)}</th>" for name in metrics)
        rows = []
        for arm in arms:
            cells = "".join(_cell(each, arm, name) for name in metrics)
            rows.append(f"<tr><th scope=row>{html.escape(arm)}</th>{cells}</tr>")
    else:
        head = "".join(f"<th class=number>{html.escape(arm)}</th>" for arm in arms)
        rows = [metric_row(each, name, arms) for name in metrics]
    return f"<table class=compact><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def metric_row(each: Evaluated, name: str, arms: Sequence[str]) -> str:
    """A row of a table: what a metric is, and its mean and interval for each arm."""
    return f"<tr><th scope=row>{_metric_heading(each, name)}</th>{''.join(_cell(each, arm, name) for arm in arms)}</tr>"


def _metric_heading(each: Evaluated, name: str) -> str:
    """Its name, with its unit and which way is better below."""
    shown = Shown(name, each.metric_info.get(name, Metric()))
    aside = ", ".join(filter(None, [shown.metric.unit, shown.better]))
    return f"{html.escape(shown.short)}{f'<small>{html.escape(aside)}</small>' if aside else ''}"


def _cell(each: Evaluated, arm: str, name: str) -> str:
    shown, found = Shown(name, each.metric_info.get(name, Metric())), each.estimate(arm, name)
    interval = "" if found.low is None else f" {shown.interval(found.low, found.high)}"
    return f"<td class=number>{two_lines(f'{shown.number(found.mean)}{interval}')}</td>"


def write_csv(evaluated: Sequence[Evaluated], folder: Path, rows: bool = True) -> list[str]:
    """Write the tables and the metrics as CSV into a folder; returns the names of the files.

    evaluation-SPLIT.NAME.csv: every row of the tables, with arm and seed before its columns, and the options that differ
    where there are several; not without `rows`. evaluations.csv: a row per arm, seed and metric.
    """
    files = {f"{name}.csv": frame for name, frame in frames(evaluated, rows).items()}
    for name, frame in files.items():
        write_atomically(folder / name, forms.csv(frame).encode())
    return list(files)


def frames(evaluated: Sequence[Evaluated], rows: bool = True) -> dict[str, pd.DataFrame]:
    """{name of a file of `write_csv`, without its ending: its rows}."""
    found: dict[str, pd.DataFrame] = {}
    for key in dict.fromkeys(each.key for each in evaluated if rows):
        parts = [_with_options(each) for each in evaluated if each.key == key and each.has_rows]
        if parts:
            found[f"evaluation-{key}"] = pd.concat(parts, ignore_index=True)
    return found | ({Path(NUMBERS).stem: numbers(evaluated)} if evaluated else {})


def _with_options(each: Evaluated) -> pd.DataFrame:
    frame = each.frame
    if each.options:
        frame.insert(2, "options" if "options" not in frame else "evaluator.options", each.options)
    return frame


def numbers(evaluated: Sequence[Evaluated]) -> pd.DataFrame:
    """A row per arm, seed and metric of everything that was measured."""
    rows = [
        {"arm": arm, "seed": seed, "evaluation": each.key, "options": each.options, "metric": name, "value": value}
        | {"unit": each.metric_info.get(name, Metric()).unit}
        for each in evaluated
        for arm, runs in each.records.items()
        for seed, record in runs.items()
        for name, value in record.values.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "evaluation", "options", "metric", "value", "unit"])
