"""The results table, one row per arm: raw numbers for CSV, and rounded for reading (text, Markdown, LaTeX, HTML).

Means are formed on the scale of `sweeps.compare`: a perplexity is exp of the mean loss over seeds, i.e. the geometric
mean of the seeds' perplexities.
"""

import html
import json
from dataclasses import dataclass

import pandas as pd

from analysis import texts
from analysis.claims import seeds
from analysis.shown import Shown
from arch import units
from arch.contracts import Verdict
from sweeps.stats import mean_interval

DIFFERENCES_SHOWN = 2
LEVEL = f"[95{units.SPACE}%]"


@dataclass(frozen=True)
class Results:
    """The results table. frame: one row per arm, unrounded. shown: the metric of its claim.

    for_texts: what the arms are for other texts.
    """

    frame: pd.DataFrame
    shown: Shown
    for_texts: texts.Texts


def results(study, judgement):
    """The Results of a claim: losses in nats, relative differences in percent, bytes, seconds.

    The names of the columns say the metric: `loss_nats`, `perplexity`, `difference_percent` for a loss; `accuracy`,
    `difference` for an accuracy.
    """
    others = texts.of(study, judgement)
    rows = [_row(study, judgement, arm) | _for_texts(judgement.shown, others, arm) for arm in study.record.arms]
    return Results(pd.DataFrame(rows), judgement.shown, others)


def _for_texts(shown, others, arm):
    """The columns of the interval for other texts."""
    low, high = others.effects.get(arm, (None, None))
    return {f"{_difference(shown)}_texts_low": low, f"{_difference(shown)}_texts_high": high}


def _row(study, judgement, arm):
    record, verdict = study.record.arms[arm], judgement.verdicts.get(arm, Verdict(""))
    mean, difference = mean_interval(list(judgement.scaled[arm].values())), judgement.differences[arm]
    compared = arm != study.baseline
    runs = study.runs[study.runs.arm == arm]
    return {
        "arm": arm,
        "changes": in_words(record),
        "n": mean.n,
        "runs_planned": len(runs),
        **_means(judgement.shown, mean),
        "pairs": difference.n if compared else None,
        **_differences(judgement.shown, difference, compared),
        "p": difference.p if compared else None,
        "p_holm": verdict.p,
        "p_equivalence_holm": verdict.p_same,
        "verdict": verdict.word,
        "seeds_needed": verdict.seeds_needed,
        "reason": verdict.reason,
        **_cost(study, arm),
        "wall_seconds_mean": runs.loc[runs.status == "finished", "wall_seconds"].mean(),
    }


def _means(shown, mean):
    """The columns of a mean over seeds and its interval."""
    ends = {"": mean.mean, "_low": mean.low, "_high": mean.high}
    columns = {}
    if shown.metric.compare == "log":
        columns = {f"{_column(shown.short)}{end or '_nats'}": value for end, value in ends.items()}
        if not shown.metric.exponential:
            return columns
    return columns | {f"{_column(shown.quantity)}{end}": shown.headline(value) for end, value in ends.items()}


def _differences(shown, difference, compared):
    """The columns of a paired difference: on the scale where that is a logarithm, and as it is shown."""
    ends = {"": difference.mean, "_low": difference.low, "_high": difference.high}
    columns = {"difference_nats": difference.mean} if shown.relative else {}
    columns["difference_sd_nats" if shown.relative else "difference_sd"] = difference.sd
    name = _difference(shown)
    columns |= {f"{name}{end}": shown.effect(value) for end, value in ends.items()}
    return columns if compared else dict.fromkeys(columns)


def _difference(shown):
    return "difference_percent" if shown.relative else "difference"


def _column(name):
    return name.replace(" ", "_")


def _headline(shown):
    """The column of the number that a reader sees."""
    bare_logarithm = shown.metric.compare == "log" and not shown.metric.exponential
    return f"{_column(shown.short)}_nats" if bare_logarithm else _column(shown.quantity)


def _cost(study, arm):
    """An arm's cost from its record. cache_ratio: its cache over the baseline's."""
    cost = study.record.arms[arm].cost
    cache = long_cache(study, arm)
    baseline = long_cache(study, study.baseline)
    return {
        "parameters": cost.get("parameters", {}).get("total"),
        "parameters_non_embedding": cost.get("parameters", {}).get("non_embedding"),
        "flops_per_token_train_ideal": cost.get("flops_per_token", {}).get("ideal", {}).get("train"),
        "cache_bytes": cache,
        "cache_context": cost.get("long", {}).get("context", study.record.long_context),
        "cache_ratio": cache / baseline if cache is not None and baseline else None,
    }


def long_cache(study, arm):
    """Cache bytes of an arm at the study's long context, or None if its record does not say."""
    return study.record.arms[arm].cost.get("long", {}).get("cache_bytes")


def in_words(arm):
    """An arm's differences from the baseline as `key: value; key: value`; empty for the baseline."""
    return "; ".join(f"{key}: {spelt(change[1])}" for key, change in _all_changes(arm).items())


def _all_changes(arm):
    """An arm's changes, plus the values that tuning chose for it."""
    tuned = {f"{key} (tuned)": [None, value] for key, value in arm.tuned.items()}
    return arm.changes | tuned


def spelt(value):
    """A value on one line, as in YAML; a dash for None."""
    if value is None:
        return units.DASH
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(spelt, value))}]"
    return json.dumps(value)


def changes(study):
    """How the specs differ: one row per key, one column per arm; `same` where an arm has the baseline's value."""
    keys = list(dict.fromkeys(key for arm in study.record.arms.values() for key in _all_changes(arm)))
    return pd.DataFrame({arm: [_value(study, arm, key) for key in keys] for arm in study.record.arms}, index=keys)


def _value(study, label, key):
    own = _all_changes(study.record.arms[label])
    if key in own:
        return spelt(own[key][1])
    return spelt(next(_all_changes(arm)[key][0] for arm in study.record.arms.values() if key in _all_changes(arm)))


def readable(raw):
    """The Results for reading, a DataFrame: rounded, every cell is text."""
    context = units.context(int(raw.frame.cache_context.iloc[0]))
    column = raw.for_texts.column if raw.for_texts.effects else None
    return pd.DataFrame([_readable_row(row, context, raw.shown, column) for row in _records(raw.frame)])


def _readable_row(row, context, shown, for_texts):
    """for_texts: the heading of the interval for other texts; None without one."""
    value, change = _headline(shown), _difference(shown)
    low, high = (row[f"{_column(shown.quantity)}_{end}"] for end in ("low", "high"))
    of_texts = shown.change_interval(row[f"{change}_texts_low"], row[f"{change}_texts_high"])
    return {
        "arm": row["arm"],
        "differs in": _shortened(row["changes"]) or units.DASH,
        f"{shown.quantity} {LEVEL}": _with_interval(units.number(row[value]), units.interval(low, high)),
        "n": f"{row['n']}" if row["n"] == row["runs_planned"] else f"{row['n']} of {row['runs_planned']}",
        f"paired difference {LEVEL}": _with_interval(
            shown.change(row[change]), shown.change_interval(row[f"{change}_low"], row[f"{change}_high"])
        ),
        **({for_texts: of_texts if of_texts == units.DASH else f"{of_texts}{units.SPACE}{shown.unit}"} if for_texts else {}),
        "p (Holm)": units.p_value(row["p_holm"]),
        "verdict": _verdict(row),
        "parameters": units.count(row["parameters"]),
        "training FLOPs/token (ideal)": units.flops(row["flops_per_token_train_ideal"]),
        f"cache at {context}": _cache(row),
    }


def _verdict(row):
    if row["verdict"] == "undecided" and row["seeds_needed"] is not None:
        return f"undecided ({seeds(row['seeds_needed'])} seeds needed)"
    if row["verdict"] in ("worse", "better") and row["reason"]:
        return f"{row['verdict']} ({row['reason']})"
    return row["verdict"]


def _cache(row):
    if row["cache_bytes"] is None:
        return units.DASH
    ratio = row["cache_ratio"]
    text = units.size(row["cache_bytes"])
    return text if ratio is None else f"{text} (×{ratio:.2g})"


def _with_interval(mean, interval):
    return mean if interval == units.DASH else f"{mean} {interval}"


def _shortened(text):
    parts = text.split("; ")
    hidden = len(parts) - DIFFERENCES_SHOWN
    return text if hidden <= 0 else f"{'; '.join(parts[:DIFFERENCES_SHOWN])}; {hidden} more"


def frame_csv(frame):
    """The unrounded numbers of a DataFrame as CSV, with `.` for decimals; a missing number is an empty cell."""
    return frame.to_csv(index=False, lineterminator="\n")


def csv(raw):
    """The unrounded numbers as CSV."""
    return frame_csv(raw.frame)


def markdown(raw):
    """The readable table as Markdown."""
    shown = readable(raw)
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def text(raw):
    """The readable table for a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = readable(raw).drop(columns="differs in")
    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    for name in shown:
        longest = max(len(line) for cell in shown[name] for line in _in_lines(cell).split("\n"))
        table.add_column(_in_lines(name), justify="left" if name in ("arm", "verdict") else "right", min_width=longest)
    for row in shown.values.tolist():
        table.add_row(*(Text(_in_lines(cell)) for cell in row))
    # As wide as its cells need: in a narrow window, wrapped lines are easier to read than cells of three letters.
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def _in_lines(cell):
    """A cell with line breaks before brackets and long parts."""
    return cell.replace(" [", "\n[").replace(" (", "\n(").replace("FLOPs/", "\nFLOPs/").replace(" at ", "\nat ")


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    units.MINUS: "$-$",
    units.DASH: "--",
    units.SPACE: "~",
}


def latex(raw):
    """The readable table as a booktabs tabular."""
    shown = readable(raw)
    escaped = lambda line: " & ".join("".join(LATEX.get(char, char) for char in cell) for cell in line)  # noqa: E731
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * shown.shape[1]}}}",
            r"\toprule",
            rf"{escaped(shown.columns)} \\",
            r"\midrule",
            *(rf"{escaped(line)} \\" for line in shown.values.tolist()),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def results_html(raw):
    """The readable table as HTML: verdicts as badges, differences under the arm's name, intervals on their own line."""
    shown = readable(raw).drop(columns="differs in")
    numeric = lambda name: name not in ("arm", "verdict")  # noqa: E731
    head = "".join(f"<th{' class=number' if numeric(name) else ''}>{html.escape(name)}</th>" for name in shown)
    rows = [_html_row(row, cells) for row, cells in zip(_records(raw.frame), shown.to_dict("records"), strict=True)]
    return f"<table class=results><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_row(row, cells):
    differs = html.escape(_shortened(row["changes"])) or "baseline"
    kind = row["verdict"].replace(" ", "-")
    aside = html.escape(cells["verdict"].removeprefix(row["verdict"]).strip(" ()"))
    parts = {
        "arm": f"<th scope=row>{html.escape(row['arm'])}<small>{differs}</small></th>",
        "verdict": f"<td><span class='badge {kind}'>{html.escape(row['verdict'])}</span><small>{aside}</small></td>",
    }
    number = lambda cell: f"<td class=number>{_two_lines(cell)}</td>"  # noqa: E731
    return f"<tr>{''.join(parts.get(name) or number(cell) for name, cell in cells.items())}</tr>"


def _two_lines(cell):
    """A cell with its interval or ratio on a second, smaller line."""
    for mark in (" [", " (×"):
        if mark in cell:
            first, rest = cell.split(mark, 1)
            return f"{html.escape(first)}<small>{html.escape((mark + rest).strip())}</small>"
    return html.escape(cell)


def plain_html(frame, index=True):
    """A DataFrame of text as an HTML table, escaped."""
    head = (["<th></th>"] if index else []) + [f"<th>{html.escape(str(name))}</th>" for name in frame]
    rows = []
    for name, values in zip(frame.index, frame.values.tolist(), strict=True):
        first = [f"<th scope=row>{html.escape(str(name))}</th>"] if index else []
        rows.append(f"<tr>{''.join(first + [f'<td>{html.escape(str(value))}</td>' for value in values])}</tr>")
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _records(frame):
    """The rows as dicts, with None for NaN."""
    return [{key: None if units.absent(value) else value for key, value in row.items()} for row in frame.to_dict("records")]
