"""The results table, one row per arm: raw numbers for CSV, and rounded for reading (text, Markdown, LaTeX, HTML).

Means are formed on the scale of `sweeps.compare`: a perplexity is exp of the mean loss over seeds, i.e. the geometric
mean of the seeds' perplexities.
"""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import forms, matched, texts
from analysis.bill import bill
from analysis.claims import statement
from analysis.deciding import seeds_needed
from analysis.shown import Shown
from arch import units
from arch.contracts import SeedsNeeded, Verdict
from arch.spec import ABSENT, spelt
from arch.words import times
from experiments.metrics import IDEAL, OF_RUNS, is_cost, title
from sweeps.claims.equivalent import BASELINE, BETTER, SAME, WORSE
from sweeps.compare import off_scale, on_scale
from sweeps.contrasts import what
from sweeps.stats import Sample, mean_interval

DIFFERENCES_SHOWN = 2
LONGEST_SHOWN = 80  # characters of one difference in an arm's label; the table of differences has it whole
TUNED = " (tuned)"
LEVEL = f"[95{units.SPACE}%]"
DIFFERENCE = f"paired difference [together 95{units.SPACE}%]"
# The same heading where arms with different seeds are compared.
UNPAIRED = f"difference [together 95{units.SPACE}%]"


@dataclass(frozen=True)
class Results:
    """The results table. frame: one row per arm, unrounded. shown: the metric of its claim.

    for_texts: what the arms are for other texts. comparisons: one row per comparison of a claim that does not compare every
    arm with the first, for reading; None for one that does. matched: the cells of each arm on what `match` and `budget` gave it.
    paired: whether all that is compared is compared within seeds.
    """

    frame: pd.DataFrame
    shown: Shown
    for_texts: texts.Texts
    comparisons: pd.DataFrame | None = None
    matched: tuple[dict[str, str], ...] = ()
    paired: bool = True


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
    return Results(pd.DataFrame(rows), judgement.shown, others, compared, cells, judgement.paired)


def _comparisons(judgement, others):
    """The comparisons for reading; every cell is text."""
    shown = judgement.shown
    rows = []
    for subject, contrast in judgement.contrasts.items():
        verdict, difference = judgement.verdicts.get(subject, Verdict("")), judgement.differences[subject]
        row = _claim_row(judgement, subject) if subject in judgement.verdicts else {}
        interval = shown.change_interval(row.get("low"), row.get("high"))
        of_texts = _of_texts(shown, *others.effects.get(subject, (None, None)))
        about = {
            **_needed(verdict),
            "verdict": judgement.word(subject),
            "reason": verdict.reason or judgement.missing.get(subject, ""),
            "exploratory": judgement.exploratory,
        }
        rows.append(
            {
                "comparison": what(subject, contrast),
                "verdict": _verdict(about),
                DIFFERENCE if judgement.paired else UNPAIRED: _with_interval(shown.change(shown.effect(difference.mean)), interval),
                **({others.column: of_texts} if others.effects else {}),
                "n": str(difference.n),
                "p": p_cell(verdict, shown.name),
            }
        )
    return pd.DataFrame(rows)


def _of_texts(shown, low, high):
    """The interval for other texts as a cell, with its unit."""
    interval = shown.change_interval(low, high)
    return interval if interval == units.DASH else f"{interval}{units.SPACE}{shown.unit}"


def _for_texts(shown, others, arm):
    """The columns of the interval for other texts."""
    low, high = others.effects.get(arm, (None, None))
    return {f"{_difference(shown)}_texts_low": low, f"{_difference(shown)}_texts_high": high}


def _row(study, judgement, arm, spent, measured):
    record, verdict = study.record.arms[arm], judgement.beside(arm) or Verdict("")
    mean, difference = mean_interval(list(judgement.scaled[arm].values())), judgement.differences.get(arm, Sample())
    compared = arm in judgement.differences if judgement.contrasts else arm != judgement.baseline
    runs = study.runs[study.runs.arm == arm]
    return {
        "arm": arm,
        "changes": in_words(record),
        "n": mean.n,
        "runs_planned": mean.n if is_cost(judgement.shown.name) else len(runs),
        **_means(judgement.shown, mean),
        "pairs": (difference.n if difference.paired else 0) if compared else None,
        **_differences(judgement.shown, difference, judgement.about(arm) or Verdict(""), compared),
        "p": verdict.p,
        "p_equivalence": verdict.p_same,
        "level": verdict.level,
        "verdict": judgement.word(arm) if verdict.word else "",
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
    shown = ({"first_seed": arm.first_seed} if arm.first_seed else {}) | shown
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
    rows = records(raw.frame)
    heading = DIFFERENCE if raw.paired else UNPAIRED
    frame = pd.DataFrame(
        [
            _readable_row(row, not i, context, raw.shown, measured, searched, for_texts, heading)
            | (raw.matched[i] if raw.matched else {})
            for i, row in enumerate(rows)
        ]
    )
    empty = {name for name in (heading, "p", "verdict") if frame[name].isin(["", units.DASH]).all()}
    if raw.comparisons is None:  # verdicts that are all about other differences stand in a table of their own
        return frame if {"p", "verdict"} - empty or raw.frame.reason.any() else frame.drop(columns=["p", "verdict"])
    # What is compared stands in a table of its own; only controls have a difference here.
    return frame.drop(columns=list(empty))


def _readable_row(row, first, context, shown, measured, searched, for_texts, difference):
    """first: whether it is the first arm, from which specs differ. for_texts: the heading of the interval for other texts.

    difference: that of the difference from the baseline.
    """
    value, change = _headline(shown), _difference(shown)
    low, high = (row[f"{_column(shown.quantity)}_{end}"] for end in ("low", "high"))
    of_texts = _of_texts(shown, row[f"{change}_texts_low"], row[f"{change}_texts_high"])
    return {
        "arm": row["arm"],
        "verdict": _verdict(row),
        "differs in": shortened(row["changes"]) or (units.DASH if first else "nothing"),
        difference: _with_interval(shown.change(row[change]), shown.change_interval(row[f"{change}_low"], row[f"{change}_high"])),
        "p": p_cell(Verdict(row["verdict"], row["p"], row["p_equivalence"], level=row["level"]), shown.name),
        "n": f"{row['n']}" if row["n"] == row["runs_planned"] else f"{row['n']} of {row['runs_planned']}",
        f"{shown.quantity} {LEVEL}": _with_interval(shown.number(row[value]), shown.interval(low, high)),
        **({for_texts: of_texts} if for_texts else {}),
        "parameters": units.count(row["parameters"]),
        IDEAL: units.flops(row["flops_per_token_train_ideal"]),
        f"cache at {context}": _cache(row),
        **{_measured_heading(name): _measured_cell(row, name) for name in measured},
        **({"tuning runs (FLOPs executed)": _search(row)} if searched else {}),
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


def p_cell(verdict: Verdict, metric: str) -> str:
    """The p value of the test behind a verdict, beside the level that it must not exceed: `0.004 of 0.0125`.

    `No difference` comes from two one-sided tests: `0.002 of 0.0125 (equivalence)`. An undecided arm has both p values:
    `0.21 of 0.0125 (equivalence 0.08)`. A dash where nothing was tested, as of a cost, which is an exact number.
    """
    if verdict.p is None or verdict.level is None or is_cost(metric):
        return units.DASH
    level = f" of {verdict.level:.3g}"
    if verdict.p_same is None or verdict.word in (WORSE, BETTER):
        return f"{units.p_value(verdict.p)}{level}"
    same = units.p_value(verdict.p_same)
    return f"{same}{level} (equivalence)" if verdict.word == SAME else f"{units.p_value(verdict.p)}{level} (equivalence {same})"


def _cache(row):
    if row["cache_bytes"] is None:
        return units.DASH
    ratio = row["cache_ratio"]
    text = units.size(row["cache_bytes"])
    return text if ratio is None else f"{text} (×{units.number(ratio, 2)})"


def _search(row):
    """What the search cost: `15 runs (3.2 TFLOP, 4.1 min)`."""
    spent = f"{units.flops(row['tuning_flops'])}, {units.duration(row['tuning_wall_seconds'])}"
    return f"{times(int(row['tuning_runs']), 'run')} ({spent})"


def _with_interval(mean, interval):
    return mean if interval == units.DASH else f"{mean} {interval}"


def shortened(text: str) -> str:
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
        "statement": statement(judgement, subject, verdict) if stated else _compared(judgement, subject),
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


def csv(raw):
    """The unrounded numbers as CSV."""
    return forms.csv(raw.frame)


def markdown(raw):
    """The readable table as Markdown; after it the comparisons, if there are any."""
    shown = [readable(raw), *([] if raw.comparisons is None else [raw.comparisons])]
    return "\n".join(map(forms.markdown, shown))


def words_first(judged, raw, arms, form=forms.text):
    """The verdicts of all claims for a terminal, a row each: the word, then the numbers that it follows from.

    raw: the Results of the claims that have a table of arms, in their order. arms: those to name. form: how a table is
    written.
    """
    few = ["arm", "comparison", "verdict", DIFFERENCE, UNPAIRED, "n", "p"]
    both = []
    for each in raw:
        both += [readable(each)[each.frame.arm.isin(arms)], *([] if each.comparisons is None else [each.comparisons])]
    shown = [table[[name for name in table if name in few or name.endswith(LEVEL)]] for table in both]
    stated = [
        {
            "claim": _claim_row(each, subject)["statement"],
            "verdict": each.word(subject),
            "seen": seen(each, subject),
            "p": p_cell(each.verdicts[subject], each.shown.name),
        }
        for each in judged
        if not each.per_arm
        for subject in each.verdicts
    ]
    return "\n".join(map(form, [*shown, *([pd.DataFrame(stated)] if stated else [])]))


def seen(judgement, subject):
    """What a claim that is true or false was judged by, for reading: a difference and its interval, or the reason."""
    shown, verdict = judgement.shown, judgement.verdicts[subject]
    if subject not in judgement.differences:
        return verdict.reason
    interval = shown.change_interval(*map(shown.effect, verdict.interval)) if verdict.interval else units.DASH
    return _with_interval(shown.change(shown.effect(verdict.difference)), interval)


def text(raw):
    """The readable table for a terminal; after it the comparisons, if there are any."""
    shown = [readable(raw).drop(columns="differs in"), *([] if raw.comparisons is None else [raw.comparisons])]
    return "\n".join(map(forms.text, shown))


def latex(raw):
    """The readable table as a booktabs tabular."""
    return forms.latex(readable(raw))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts, with None for NaN."""
    return [{key: None if units.absent(value) else value for key, value in row.items()} for row in frame.to_dict("records")]
