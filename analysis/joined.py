"""Several studies as one table, where they can be compared: the same metric, measured on the same texts by the same rule.

Every arm of every study is a row. Differences are from the first arm of the first study, paired over the seeds that both have;
arms whose seeds are others by plan (`first_seed`) are compared without pairing.
Their intervals hold one by one, and no plan stated these comparisons before the runs, so there are no verdicts here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis import tables
from analysis.claims import judge
from analysis.runs import StudyData
from analysis.shown import Shown
from arch import units
from arch.contracts import Metric
from arch.errors import DataError, nearest
from arch.spec import diff, spelt
from experiments.metrics import IDEAL, is_cost, is_measured_once
from experiments.record import SHORT, RunRecord, evaluation_of
from sweeps import comparable
from sweeps.compare import on_scale
from sweeps.judge import built
from sweeps.stats import Sample, less, mean_interval

NOTE = "Each interval holds for itself with 95 %. These are no verdicts: no plan stated the comparisons before the runs."


@dataclass(frozen=True)
class Joined:
    """The rows of several studies. frame: unrounded. readable: every cell is text. shown: the metric."""

    frame: pd.DataFrame
    readable: pd.DataFrame
    shown: Shown


def joined(studies: Sequence[StudyData], metric: str | None = None) -> Joined:
    """The Joined table of some studies. metric: SPLIT/METRIC, by default that of the first study's first claim on one.

    Raises DataError, with the study and the reason, where two arms cannot be compared in it.
    """
    name = metric or _metric(studies[0])
    first = studies[0]
    shown = Shown(name, first.metric(name))
    _check(studies, name, shown.metric)
    scaled = [
        {arm: {seed: on_scale(value, shown.metric) for seed, value in each.items()} for arm, each in study.values(name).items()}
        for study in studies
    ]
    base = scaled[0][first.baseline]
    rows, texts = [], []
    for i, (study, values) in enumerate(zip(studies, scaled, strict=True)):
        about = tables.results(study, judge(study)).frame.set_index("arm").to_dict("index")
        for arm, record in study.record.arms.items():
            others = record.first_seed != first.record.arms[first.baseline].first_seed
            difference = less(Sample(values[arm]), Sample(base), others)
            row = _row(study, arm, about[arm], values[arm], difference, shown, first=not i and arm == first.baseline)
            rows.append(row)
            texts.append(_readable(row, shown, tables.in_words(record)))
    return Joined(pd.DataFrame(rows), pd.DataFrame(texts), shown)


def _metric(study: StudyData) -> str:
    """The metric of a study's first claim that is about something measured."""
    names: list[str] = [built(claim).config.metric for claim in study.record.claims.values()]
    measured = [name for name in names if not is_cost(name)]
    if not measured:
        raise DataError(f"{study.folder}: its claims are about costs alone; name a metric: --metric report/loss", key=None)
    return measured[0]


@dataclass(frozen=True)
class Measured:
    """One finished run of an arm that has the metric. key, file, evaluator: of the evaluation that measured it; empty in records
    that are older than the files of evaluations.
    """

    study: StudyData
    arm: str
    run: RunRecord
    key: str = ""
    file: str = ""
    evaluator: dict[str, Any] = field(default_factory=dict)


def _check(studies: Sequence[StudyData], name: str, metric: Metric) -> None:
    """Raise DataError for the first arm that cannot be compared with the first arm of the first study."""
    found = [each for study in studies for arm in study.record.arms if (each := _measured(study, arm, name))]
    for study in studies:
        if not any(each.study is study for each in found):
            known = sorted({other for each in study.metrics.values() for other in each})
            why = f"no finished run in it has {name}{nearest(name, known)}" if known else "it has no finished run"
            raise DataError(f"{study.folder}: {why}", key=None)
    first, *others = found
    for each in others:
        if why := _obstacle(first, each, name, metric):
            place = f"{each.study.folder}: its arm {each.arm!r}"
            raise DataError(f"{place} cannot stand beside {first.arm!r} of {first.study.folder}: it {why}", key=None)


def _measured(study: StudyData, arm: str, name: str) -> Measured | None:
    """The Measured of an arm's first finished run with the metric; None without one."""
    about = study.record.arms[arm]
    for (label, seed), run in study.records.items():
        if label == arm and run.status == "finished" and name in study.metrics[label, seed]:
            folder = study.folder / about.runs[str(seed)]
            for key, file in about.evaluations.items():
                evaluation = evaluation_of(folder, file)
                if evaluation is not None and name in evaluation.values:
                    return Measured(study, arm, run, key, file, evaluation.evaluator)
            return Measured(study, arm, run)
    return None


def _obstacle(one: Measured, other: Measured, name: str, metric: Metric) -> str:
    """Why two runs of two studies cannot be compared in a metric, in words; empty if they can."""
    their = other.study.metric(name)
    if (their.unit, their.better, their.compare) != (metric.unit, metric.better, metric.compare):
        return f"has {name} in {their.unit or 'no unit'} and not in {metric.unit or 'none'}"
    first, second = one.run.spec, other.run.spec
    if is_measured_once(name):
        machines = [", ".join(f"{key} {value}" for key, value in each.run.hardware.items()) for each in (other, one)]
        return "" if machines[0] == machines[1] else f"ran on another machine: {machines[0]}, and not {machines[1]}"
    if why := comparable.other_tokenizer(first, second, name, metric):
        return why
    if comparable.texts_differ(one.run, other.run):
        data = [
            f"{each.data.get('source', 'data')} ({str(each.data.get('fingerprint', '?'))[:SHORT]})" for each in (other.run, one.run)
        ]
        return f"was measured on other texts: {data[0]} and not {data[1]}"
    if not (one.file and other.file):
        return comparable.obstacle(first, second, name, metric)
    by = one.key.partition(".")[2] if one.key == other.key else None
    if why := comparable.other_objective(first, second, name, by):
        return why
    if one.file == other.file:
        return "" if by is None else comparable.obstacle(_as_measured(first, one), _as_measured(second, other), name, metric, by)
    changes = diff(one.evaluator, other.evaluator)
    if changes:
        said = ", ".join(f"{option} {spelt(theirs)} and not {spelt(ours)}" for option, (ours, theirs) in changes.items())
        return f"is measured otherwise: `{other.key}` has {said}"
    return f"was measured by another version of `{other.key}`, with other rows; `archbench study run` measures it again"


def _as_measured(spec: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """A run's spec with the evaluator that measured the metric: the run may have been made for another study."""
    split, _, name = measured.key.partition(".")
    evaluate = spec.get("evaluate") or {}
    return {**spec, "evaluate": {**evaluate, split: {**(evaluate.get(split) or {}), name: measured.evaluator}}}


def _row(study, arm, about, values, difference, shown, first):
    """One arm, unrounded. about: its row of the study's own results table. difference: the Sample from the first row."""
    mean = mean_interval(list(values.values()))
    interval = difference.interval() or (None, None)
    tokens = next((run.tokens for (label, _), run in study.records.items() if label == arm and run.status == "finished"), None)
    prefix = "difference_percent" if shown.relative else "difference"
    effects = {
        f"{prefix}{end}": shown.effect(value)
        for end, value in (("", difference.mean), ("_low", interval[0]), ("_high", interval[1]))
    }
    return {
        "study": study.record.name,
        "scale": study.record.scale,
        "arm": arm,
        "n": mean.n,
        shown.quantity.replace(" ", "_"): shown.headline(mean.mean),
        f"{shown.quantity.replace(' ', '_')}_low": shown.headline(mean.low),
        f"{shown.quantity.replace(' ', '_')}_high": shown.headline(mean.high),
        "pairs": None if first else difference.n if difference.paired else 0,
        **(dict.fromkeys(effects) if first else effects),
        "tokens": tokens,
        **{key: about[key] for key in ("parameters", "flops_per_token_train_ideal", "tokens_per_second_mean", "peak_bytes_mean")},
        "folder": str(study.folder),
    }


def _readable(row, shown, differs):
    """The cells of a row for reading."""
    row = {key: None if units.absent(value) else value for key, value in row.items()}
    value, prefix = shown.quantity.replace(" ", "_"), "difference_percent" if shown.relative else "difference"
    interval = shown.interval(row[f"{value}_low"], row[f"{value}_high"])
    change = shown.change_interval(row[f"{prefix}_low"], row[f"{prefix}_high"])
    scale = f", {row['scale']}" if row["scale"] else ""
    return {
        "study": f"{row['study']}{scale}",
        "arm": row["arm"],
        "differs in": differs or units.DASH,
        f"{shown.quantity} {tables.LEVEL}": _with(shown.number(row[value]), interval),
        "n": str(row["n"]),
        f"difference from the first row {tables.LEVEL}": _with(shown.change(row[prefix]), change),
        "tokens": units.count(row["tokens"]),
        "parameters": units.count(row["parameters"]),
        IDEAL: units.flops(row["flops_per_token_train_ideal"]),
    }


def _with(text, interval):
    return text if interval == units.DASH else f"{text} {interval}"
