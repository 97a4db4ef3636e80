"""The results table, one row per arm: raw numbers for CSV, and rounded for reading (text, Markdown, LaTeX, HTML).

Means are formed on the scale of `sweeps.compare`: a perplexity is exp of the mean loss over seeds, i.e. the geometric
mean of the seeds' perplexities.
"""

import html
import re
from dataclasses import dataclass

import pandas as pd

from analysis import matched, texts
from analysis.bill import bill
from analysis.claims import seeds_needed
from analysis.shown import Shown
from arch import units
from arch.contracts import SeedsNeeded, Verdict
from arch.spec import ABSENT, spelt
from arch.words import times
from experiments.metrics import OF_RUNS, is_cost, title
from sweeps.claims.equivalent import BASELINE
from sweeps.compare import off_scale, on_scale
from sweeps.contrasts import what
from sweeps.stats import Sample, mean_interval

DIFFERENCES_SHOWN = 2
LONGEST_SHOWN = 80  # characters of one difference in an arm's label; the table of differences has it whole
TUNED = " (tuned)"
LEVEL = f"[95{units.SPACE}%]"
DIFFERENCE = f"paired difference [together 95{units.SPACE}%]"


@dataclass(frozen=True)
class Results:
    """The results table. frame: one row per arm, unrounded. shown: the metric of its claim.

    for_texts: what the arms are for other texts. comparisons: one row per comparison of a claim that does not compare every
    arm with the first, for reading; None for one that does. matched: the cells of each arm on what `match` and `budget` gave it.
    """

    frame: pd.DataFrame
    shown: Shown
    for_texts: texts.Texts
    comparisons: pd.DataFrame | None = None
    matched: tuple[dict[str, str], ...] = ()


def results(study, judgement):
    """The Results of a claim: losses in nats, relative differences in percent, bytes, seconds.

    The names of the columns say the metric: `loss_nats`, `perplexity`, `difference_percent` for a loss; `accuracy`,
    `difference` for an accuracy.
    """
    spent = bill(study).drop(columns=["arm", "runs"]).to_dict("records")
    measured = {name: study.values(name) for name in OF_RUNS}
    others = texts.of(study, judgement)
    rows = [
        _row(study, judgement, arm, costs, measured) | _for_texts(judgement.shown, others, arm)
        for arm, costs in zip(study.record.arms, spent, strict=False)
    ]
    compared = _comparisons(judgement, others) if judgement.contrasts else None
    cells = tuple(matched.readable(study.record.matched, study.record.budget, arm) for arm in study.record.arms)
    return Results(pd.DataFrame(rows), judgement.shown, others, compared, cells)


def _comparisons(judgement, others):
    """The comparisons for reading; every cell is text."""
    shown = judgement.shown
    rows = []
    for subject, contrast in judgement.contrasts.items():
        verdict, difference = judgement.verdicts.get(subject, Verdict("")), judgement.differences[subject]
        row = _claim_row(judgement, subject) if subject in judgement.verdicts else {}
        interval = shown.change_interval(row.get("low"), row.get("high"))
        low, high = others.effects.get(subject, (None, None))
        of_texts = shown.change_interval(low, high)
        needed = dict(
            _needed(verdict), verdict=judgement.word(subject), reason=verdict.reason or judgement.missing.get(subject, "")
        )
        rows.append(
            {
                "comparison": what(subject, contrast),
                "verdict": _verdict(needed | {"exploratory": judgement.exploratory}),
                DIFFERENCE: _with_interval(shown.change(shown.effect(difference.mean)), interval),
                **(
                    {others.column: of_texts if of_texts == units.DASH else f"{of_texts}{units.SPACE}{shown.unit}"}
                    if others.effects
                    else {}
                ),
                "n": str(difference.n),
                "p": _p(verdict.p, verdict.level),
            }
        )
    return pd.DataFrame(rows)


def _for_texts(shown, others, arm):
    """The columns of the interval for other texts."""
    low, high = others.effects.get(arm, (None, None))
    return {f"{_difference(shown)}_texts_low": low, f"{_difference(shown)}_texts_high": high}


def _row(study, judgement, arm, spent, measured):
    record, verdict = study.record.arms[arm], judgement.verdicts.get(arm, Verdict(""))
    mean, difference = mean_interval(list(judgement.scaled[arm].values())), judgement.differences.get(arm, Sample())
    compared = arm in judgement.differences if judgement.contrasts else arm != judgement.baseline
    runs = study.runs[study.runs.arm == arm]
    return {
        "arm": arm,
        "changes": in_words(record),
        "n": mean.n,
        "runs_planned": mean.n if is_cost(judgement.shown.name) else len(runs),
        **_means(judgement.shown, mean),
        "pairs": difference.n if compared else None,
        **_differences(judgement.shown, difference, judgement.about(arm) or Verdict(""), compared),
        "p": verdict.p,
        "p_equivalence": verdict.p_same,
        "level": verdict.level,
        "verdict": judgement.word(arm),
        **_needed(verdict),
        "reason": verdict.reason or judgement.missing.get(arm, ""),
        "exploratory": judgement.exploratory,
        **_cost(study, arm),
        **matched.raw(study, arm),
        **_measured(measured, arm),
        "wall_seconds_mean": runs.loc[runs.status == "finished", "wall_seconds"].mean(),
        **spent,
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


def _needed(verdict):
    """The columns of what would decide an undecided arm."""
    needed = verdict.needed
    values = (needed.word, needed.seeds, needed.low, needed.high) if needed else (None,) * 4
    return dict(zip(("decides", "seeds_needed", "seeds_needed_low", "seeds_needed_high"), values, strict=True))


def _differences(shown, difference, verdict, compared):
    """The columns of a paired difference: on the scale where that is a logarithm, and as it is shown.

    The interval and the inner one are those that the verdict follows from.
    """
    ends = {"": difference.mean}
    for name, interval in (("", verdict.interval), ("_inner", verdict.inner)):
        ends |= dict(zip((f"{name}_low", f"{name}_high"), interval or (None, None), strict=True))
    columns = {"difference_nats": difference.mean} if shown.relative else {}
    columns["difference_sd_nats" if shown.relative else "difference_sd"] = difference.sd
    name = _difference(shown)
    columns |= {f"{name}{end}": shown.effect(value) for end, value in ends.items()}
    return columns if compared else dict.fromkeys(columns)


def _difference(shown):
    return "difference_percent" if shown.relative else "difference"


def _column(name):
    return re.sub(r"[^\w@]+", "_", name)


def _headline(shown):
    """The column of the number that a reader sees."""
    bare_logarithm = shown.metric.compare == "log" and not shown.metric.exponential
    return f"{_column(shown.short)}_nats" if bare_logarithm else _column(shown.quantity)


def _cost(study, arm):
    """An arm's cost from its record. cache_ratio: its cache over the baseline's.

    FLOPs per token trained, with what the objective adds: a teacher's forward passes.
    """
    cost = study.record.arms[arm].cost
    flops = cost.get("flops_per_token", {}).get("ideal", {}).get("train")
    tokens = next((run.tokens for (label, _), run in study.records.items() if label == arm and run.status == "finished"), 0)
    if flops is not None and tokens:
        flops += cost.get("objective", {}).get("flops", 0) / tokens
    cache = long_cache(study, arm)
    baseline = long_cache(study, study.baseline)
    return {
        "parameters": cost.get("parameters", {}).get("total"),
        "parameters_non_embedding": cost.get("parameters", {}).get("non_embedding"),
        "flops_per_token_train_ideal": flops,
        "cache_bytes": cache,
        "cache_context": cost.get("long", {}).get("context", study.record.long_context),
        "cache_ratio": cache / baseline if cache is not None and baseline else None,
    }


def _measured(measured, arm):
    """Mean, least and most over an arm's finished runs of the speed and the memory of training; None without any.

    measured: {metric: {arm: {seed: value}}}.
    """
    columns: dict[str, float | None] = {}
    for name, metric in OF_RUNS.items():
        values, column = list(measured[name][arm].values()), name.rpartition("/")[2]
        mean = mean_interval([on_scale(value, metric) for value in values]).mean
        columns |= {f"{column}_mean": off_scale(mean, metric) if values else None}
        columns |= {f"{column}_min": min(values, default=None), f"{column}_max": max(values, default=None)}
    return columns


def long_cache(study, arm):
    """Cache bytes of an arm at the study's long context, or None if its record does not say."""
    return study.record.arms[arm].cost.get("long", {}).get("cache_bytes")


def in_words(arm):
    """An arm's differences from the baseline as `key: value; key: value`; empty for the baseline.

    Options that are gone because a component of another type took its place are left out: the type says it.
    """
    replaced = tuple(key.removesuffix("type") for key in arm.listed if key.endswith(".type"))
    every = _all_changes(arm)
    shown = {key: every[key][1] for key in _listed(arm) if every[key][1] is not ABSENT or not key.startswith(replaced)}
    return "; ".join(f"{key}: {spelt(value)}" for key, value in shown.items())


def _all_changes(arm):
    """The values that tuning chose for an arm, then its other changes: what was written for a tuned key is not used."""
    tuned = {f"{key}{TUNED}": (ABSENT, values[0] if len(values) == 1 else values) for key, values in arm.tuned.items()}
    return tuned | {key: change for key, change in arm.differences.items() if key not in arm.tuned}


def _listed(arm):
    """The keys of an arm's differences that are shown."""
    return [key for key in _all_changes(arm) if key not in arm.unwritten]


def changes(study, arms=None):
    """How the resolved specs differ: one row per key, one column per arm (or some), every cell a value as `spelt`.

    A default is its value, `null` is null, and a dash says that the arm's component has no such option.
    """
    keys = list(dict.fromkeys(key for arm in study.record.arms.values() for key in _listed(arm)))
    return pd.DataFrame({arm: [_value(study, arm, key) for key in keys] for arm in arms or study.record.arms}, index=keys)


def _value(study, label, key):
    own = _all_changes(study.record.arms[label])
    if key in own:
        return spelt(own[key][1])
    return spelt(next(_all_changes(arm)[key][0] for arm in study.record.arms.values() if key in _all_changes(arm)))


def readable(raw):
    """The Results for reading, a DataFrame: rounded, every cell is text."""
    context = units.context(int(raw.frame.cache_context.iloc[0]))
    measured = [name for name in OF_RUNS if raw.frame[f"{name.rpartition('/')[2]}_mean"].notna().any()]
    searched = bool(raw.frame.tuning_runs.sum())
    for_texts = raw.for_texts.column if raw.for_texts.effects else None
    if raw.comparisons is not None:
        for_texts = None
    rows = _records(raw.frame)
    frame = pd.DataFrame(
        [
            _readable_row(row, not i, context, raw.shown, measured, searched, for_texts) | (raw.matched[i] if raw.matched else {})
            for i, row in enumerate(rows)
        ]
    )
    # What is compared stands in a table of its own; only controls have a difference here.
    empty = [name for name in (DIFFERENCE, "p", "verdict") if frame[name].isin(["", units.DASH]).all()]
    return frame if raw.comparisons is None else frame.drop(columns=empty)


def _readable_row(row, first, context, shown, measured, searched, for_texts):
    """first: whether it is the first arm, from which specs differ. for_texts: the heading of the interval for other texts."""
    value, change = _headline(shown), _difference(shown)
    low, high = (row[f"{_column(shown.quantity)}_{end}"] for end in ("low", "high"))
    of_texts = shown.change_interval(row[f"{change}_texts_low"], row[f"{change}_texts_high"])
    return {
        "arm": row["arm"],
        "verdict": _verdict(row),
        "differs in": _shortened(row["changes"]) or (units.DASH if first else "nothing"),
        f"{shown.quantity} {LEVEL}": _with_interval(shown.number(row[value]), shown.interval(low, high)),
        "n": f"{row['n']}" if row["n"] == row["runs_planned"] else f"{row['n']} of {row['runs_planned']}",
        DIFFERENCE: _with_interval(shown.change(row[change]), shown.change_interval(row[f"{change}_low"], row[f"{change}_high"])),
        **({for_texts: of_texts if of_texts == units.DASH else f"{of_texts}{units.SPACE}{shown.unit}"} if for_texts else {}),
        "p": _p(row["p"], row["level"]),
        "parameters": units.count(row["parameters"]),
        "training FLOPs/token (ideal)": units.flops(row["flops_per_token_train_ideal"]),
        f"cache at {context}": _cache(row),
        **{_measured_heading(name): _measured_cell(row, name) for name in measured},
        **({"tuning": _search(row)} if searched else {}),
    }


def _measured_heading(name):
    unit = OF_RUNS[name].unit
    return f"{title(name)}{f', {unit}' if unit != 'B' else ''} [min, max]"


def _measured_cell(row, name):
    """`4,870 [4,790, 6,460]`: mean, least and most over the finished runs."""
    shown, column = Shown(name, OF_RUNS[name]), name.rpartition("/")[2]
    low, high = row[f"{column}_min"], row[f"{column}_max"]
    return _with_interval(shown.number(row[f"{column}_mean"]), units.DASH if low == high else shown.interval(low, high))


def _verdict(row):
    """The word, and in brackets what qualifies it."""
    notes = [row["reason"]] if row["reason"] else []
    if row["verdict"] == "undecided" and row["seeds_needed"] is not None:
        needed = SeedsNeeded(row["decides"], row["seeds_needed"], row["seeds_needed_low"], row["seeds_needed_high"])
        notes = [f"about {seeds_needed(needed)}"]
    if row["exploratory"] and row["verdict"] not in ("", BASELINE):
        notes.append("exploratory")
    return f"{row['verdict'] or units.DASH} ({'; '.join(notes)})" if notes else row["verdict"]


def _p(p, level):
    """A p value beside the level that it must not exceed: `0.004 of 0.0125`."""
    return units.DASH if p is None else f"{units.p_value(p)} of {level:.3g}"


def _cache(row):
    if row["cache_bytes"] is None:
        return units.DASH
    ratio = row["cache_ratio"]
    text = units.size(row["cache_bytes"])
    return text if ratio is None else f"{text} (×{ratio:.2g})"


def _search(row):
    """What the search cost: `15 runs (3.2 TFLOP, 4.1 min)`."""
    spent = f"{units.flops(row['tuning_flops'])}, {units.duration(row['tuning_wall_seconds'])}"
    return f"{times(int(row['tuning_runs']), 'run')} ({spent})"


def _with_interval(mean, interval):
    return mean if interval == units.DASH else f"{mean} {interval}"


def _shortened(text):
    """The first differences, and how many more there are; tuned values come before them, and all are shown."""
    parts = [part if len(part) <= LONGEST_SHOWN else f"{part[: LONGEST_SHOWN - 1]}…" for part in text.split("; ")]
    shown = DIFFERENCES_SHOWN + sum(f"{TUNED}: " in part for part in parts)
    hidden = len(parts) - shown
    return "; ".join(parts) if hidden <= 0 else f"{'; '.join(parts[:shown])}; {hidden} more"


def claims(judged):
    """All verdicts of several Judgements: one row per subject, unrounded. Differences are as the metric shows them."""
    return pd.DataFrame([_claim_row(judgement, subject) for judgement in judged for subject in judgement.verdicts])


def _claim_row(judgement, subject):
    verdict, shown = judgement.verdicts[subject], judgement.shown
    stated = not judgement.per_arm
    low, high = map(shown.effect, verdict.interval or (None, None))
    return {
        "claim": judgement.name,
        "subject": subject,
        "statement": judgement.claim.statement(subject, verdict, shown.metric) if stated else _compared(judgement, subject),
        "source": getattr(judgement.claim.config, "source", ""),
        "metric": shown.name,
        "against": verdict.against,
        "n": verdict.n,
        _difference(shown): shown.effect(verdict.difference),
        "low": low,
        "high": high,
        "p": verdict.p,
        "p_equivalence": verdict.p_same,
        "level": verdict.level,
        "verdict": judgement.word(subject),
        "reason": verdict.reason,
        "exploratory": judgement.exploratory,
    }


def _compared(judgement, subject):
    contrast = judgement.contrasts.get(subject)
    return what(subject, contrast) if contrast else ""


def comparisons_html(raw, judgement):
    """The comparisons as an HTML table: verdicts as badges, intervals on their own line."""
    head = "".join(
        f"<th{'' if name in ('comparison', 'verdict') else ' class=number'}>{html.escape(name)}</th>" for name in raw.comparisons
    )
    rows = []
    for subject, cells in zip(judgement.contrasts, raw.comparisons.to_dict("records"), strict=True):
        verdict, word = judgement.verdicts.get(subject, Verdict("")), judgement.word(subject)
        aside, kind = html.escape(cells["verdict"].removeprefix(word).strip(" ()")), verdict.word.replace(" ", "-")
        parts = {
            "comparison": f"<th scope=row>{html.escape(cells['comparison'])}<small>{html.escape(subject)}</small></th>",
            "verdict": f"<td><span class='badge {kind}'>{html.escape(word)}</span><small>{aside}</small></td>",
        }
        rows.append("".join(parts.get(name) or f"<td class=number>{two_lines(cell)}</td>" for name, cell in cells.items()))
    return f"<table class=results><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def claims_html(judged):
    """The verdicts of claims that are true or false, as an HTML table: what is claimed, what was seen, the verdict."""
    rows = []
    for judgement in judged:
        shown = judgement.shown
        for subject, verdict in judgement.verdicts.items():
            statement = judgement.claim.statement(subject, verdict, shown.metric)
            source = getattr(judgement.claim.config, "source", "")
            seen = _seen(judgement, subject)["seen"]
            word = judgement.word(subject)
            rows.append(
                f"<tr><th scope=row>{html.escape(statement)}<small>{html.escape(source or judgement.name)}</small></th>"
                f"<td><span class='badge {word.replace(' ', '-')}'>{html.escape(word)}</span>"
                f"{'<small>exploratory</small>' if judgement.exploratory else ''}</td><td>{two_lines(seen)}</td>"
                f"<td class=number>{verdict.n}</td><td class=number>{_p(verdict.p, verdict.level)}</td></tr>"
            )
        rows += [
            f"<tr><th scope=row>{html.escape(subject)}<small>{html.escape(judgement.name)}</small></th>"
            f"<td colspan=4>no verdict yet: {html.escape(text)}</td></tr>"
            for subject, text in judgement.missing.items()
        ]
    head = "<tr><th>claim</th><th>verdict</th><th>seen</th><th class=number>n</th><th class=number>p</th></tr>"
    return f"<table class=results><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def frame_csv(frame):
    """The unrounded numbers of a DataFrame as CSV, with `.` for decimals; a missing number is an empty cell."""
    return frame.to_csv(index=False, lineterminator="\n")


def csv(raw):
    """The unrounded numbers as CSV."""
    return frame_csv(raw.frame)


def markdown(raw):
    """The readable table as Markdown; after it the comparisons, if there are any."""
    shown = [readable(raw), *([] if raw.comparisons is None else [raw.comparisons])]
    return "\n".join(map(_markdown, shown))


def _markdown(shown):
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def text(raw):
    """The readable table for a terminal; after it the comparisons, if there are any."""
    shown = [readable(raw).drop(columns="differs in"), *([] if raw.comparisons is None else [raw.comparisons])]
    return "\n".join(map(_text, shown))


def words_first(judged, raw, arms):
    """The verdicts of all claims for a terminal, a row each: the word, then the numbers that it follows from.

    raw: the Results of the claims that have a table of arms, in their order. arms: those to name.
    """
    few = ["arm", "comparison", "verdict", DIFFERENCE, "n"]
    tables = []
    for each in raw:
        both = [readable(each)[each.frame.arm.isin(arms)], *([] if each.comparisons is None else [each.comparisons])]
        tables += [shown[[name for name in shown if name in few or name.endswith(LEVEL)]] for shown in both]
    stated = [
        {"claim": _claim_row(each, subject)["statement"], "verdict": each.word(subject), **_seen(each, subject)}
        for each in judged
        if not each.per_arm
        for subject in each.verdicts
    ]
    return "\n".join(map(_text, [*tables, *([pd.DataFrame(stated)] if stated else [])]))


def _seen(judgement, subject):
    """What a claim that is true or false was judged by, for reading."""
    shown, verdict = judgement.shown, judgement.verdicts[subject]
    if subject not in judgement.differences:
        return {"seen": verdict.reason, "n": str(verdict.n)}
    interval = shown.change_interval(*map(shown.effect, verdict.interval)) if verdict.interval else units.DASH
    return {"seen": _with_interval(shown.change(shown.effect(verdict.difference)), interval), "n": str(verdict.n)}


def _text(shown):
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    for name in shown:
        longest = max(len(line) for cell in shown[name] for line in _in_lines(cell).split("\n"))
        table.add_column(
            _in_lines(name), justify="left" if name in ("arm", "comparison", "claim", "verdict") else "right", min_width=longest
        )
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
    "…": r"\ldots{}",
}


def latex(raw):
    """The readable table as a booktabs tabular."""
    return _latex(readable(raw))


def any_frame(frame, form):
    """Any DataFrame as `csv`, `markdown` or `latex`; rounded in the latter two."""
    if form == "csv":
        return frame_csv(frame)
    cell = lambda value: units.DASH if units.absent(value) else f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
    return (_markdown if form == "markdown" else _latex)(frame.map(cell))


def _latex(shown):
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


def results_html(raw, arms=None):
    """The readable table as HTML: verdicts as badges, differences under the arm's name, intervals on their own line.

    arms: the rows to show; None for all.
    """
    shown = readable(raw).drop(columns="differs in")
    numeric = lambda name: name not in ("arm", "verdict")  # noqa: E731
    head = "".join(f"<th{' class=number' if numeric(name) else ''}>{html.escape(name)}</th>" for name in shown)
    both = zip(_records(raw.frame), shown.to_dict("records"), strict=True)
    rows = [_html_row(row, not i, cells) for i, (row, cells) in enumerate(both) if arms is None or row["arm"] in arms]
    return f"<table class=results><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_row(row, first, cells):
    same = "the first arm" if first and row["pairs"] is not None else "baseline" if first else "the same spec as the first arm"
    differs = html.escape(_shortened(row["changes"])) or same
    kind = row["verdict"].replace(" ", "-")
    aside = html.escape(cells.get("verdict", "").removeprefix(row["verdict"]).strip(" ()"))
    parts = {
        "arm": f"<th scope=row>{html.escape(row['arm'])}<small>{differs}</small></th>",
        "verdict": f"<td><span class='badge {kind}'>{html.escape(row['verdict'])}</span><small>{aside}</small></td>",
    }
    number = lambda cell: f"<td class=number>{two_lines(cell)}</td>"  # noqa: E731
    return f"<tr>{''.join(parts.get(name) or number(cell) for name, cell in cells.items())}</tr>"


def two_lines(cell):
    """A cell with its interval or ratio on a second, smaller line."""
    for mark in (" [", " (×", " (+", f" ({units.MINUS}"):
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


def pairs(data):
    """A mapping on one line: `torch: 2.13.0, python: 3.11.7`."""
    return ", ".join(f"{key}: {spelt(value)}" for key, value in data.items())


def _records(frame):
    """The rows as dicts, with None for NaN."""
    return [{key: None if units.absent(value) else value for key, value in row.items()} for row in frame.to_dict("records")]
