"""What a study cost: runs, FLOPs of training and wall time, per arm and in total. The search is part of it."""

import pandas as pd

from arch import units
from arch.words import listed, times
from experiments.metrics import EXECUTED, objective_costs

TOTAL, HELPERS, TRIALS = "total", "helper runs", "trials of the search"


def bill(study):
    """One row per arm, one for the search and one for helper runs if there are any, and the total: arm, runs,
    training_flops, wall_seconds, then the same of the search: tuning_runs, tuning_flops, tuning_wall_seconds.

    It counts every run that has a record, also failed ones and those that another study made. A run that arms share
    counts for each of them, and once in the total. Arms that resolve to the same experiment share one search, which
    counts for the first of them.
    """
    started = study.runs[study.runs.status != "missing"]
    helps = study.unreported.role == "helper"
    search, helpers = study.unreported[~helps], study.unreported[helps]
    search, helpers = (frame[frame.folder.isin(study.other_records)] for frame in (search, helpers))
    by_arm, searches = (dict(iter(frame.groupby("arm", sort=False))) for frame in (started, search))
    rows = [_row(arm, by_arm.get(arm, started.iloc[:0]), searches.get(arm, search.iloc[:0])) for arm in study.record.arms]
    if len(trials := search[search.role == "trial"]):
        rows.append(_row(TRIALS, started.iloc[:0], trials))
    if len(helpers):
        rows.append(_row(HELPERS, helpers, search.iloc[:0]))
    once = pd.concat([started[PAID], helpers[PAID]]).drop_duplicates("folder")
    return pd.DataFrame([*rows, _row(TOTAL, once, search.drop_duplicates("folder"))])


PAID = ["folder", "training_flops", "wall_seconds"]


def _row(label, runs, search):
    return {
        "arm": label,
        "runs": len(runs),
        "training_flops": runs.training_flops.sum(min_count=1),
        "wall_seconds": runs.wall_seconds.sum(),
        "tuning_runs": len(search),
        "tuning_flops": search.training_flops.sum(min_count=1) if len(search) else 0.0,
        "tuning_wall_seconds": search.wall_seconds.sum(),
    }


def readable(frame, together=()):
    """The bill for reading: every cell is text. Without a search it has no columns for one.

    together: arms that share a row, before the total.
    """
    if len(together):
        named, others = frame[~frame.arm.isin(together)], frame[frame.arm.isin(together)]
        row = others.drop(columns="arm").sum().to_frame().T.assign(arm=f"{len(others)} other arms")[frame.columns]
        frame = pd.concat([named.iloc[:-1], row.astype(frame.dtypes), named.iloc[-1:]])
    shown = pd.DataFrame(
        {
            "runs": frame.runs.map(str),
            EXECUTED: frame.training_flops.map(units.flops),
            "wall time": frame.wall_seconds.map(units.duration),
            "tuning runs": frame.tuning_runs.map(str),
            f"tuning, {EXECUTED}": frame.tuning_flops.map(units.flops),
            "tuning, wall time": frame.tuning_wall_seconds.map(units.duration),
        }
    ).set_axis(frame.arm, axis=0)
    return shown if frame.tuning_runs.sum() else shown[["runs", EXECUTED, "wall time"]]


def objectives(study):
    """Sentences on what objectives cost beside the models' own steps: `distilled: teacher big, seed 0; adds per run 1.2 TFLOP`."""
    said = []
    for label, arm in study.record.arms.items():
        added = arm.cost.get("objective")
        if not added:
            continue
        runs = [run for (name, _), run in study.records.items() if name == label and run.runs]
        used = dict.fromkeys(f"{option} {each['name']}{_seeded(each)}" for run in runs for option, each in run.runs.items())
        named = f"{listed(list(used))}; " if used else ""
        said.append(f"{label}: {named}its objective adds per run {objective_costs(added)}")
    return said


def helpers(study):
    """What each helper run reached, such as a teacher: `helper run big, seed 0: report/loss 4.105`."""
    runs = study.unreported[study.unreported.role == "helper"]
    known = [(each, study.other_records.get(each.folder)) for each in runs.itertuples()]
    return [
        f"helper run {each.arm}, seed {each.seed}: report/loss {units.number(record.metrics['report/loss'])}"
        for each, record in known
        if record and "report/loss" in record.metrics
    ]


def _seeded(parent):
    return "" if parent["seed"] is None else f" (seed {parent['seed']})"


def sentence(frame):
    """`2.1 min in 10 runs, and 1.2 min in 15 tuning runs`; None if nothing was run."""
    total = frame.iloc[-1]
    if not total.runs + total.tuning_runs:
        return None
    text = f"{units.duration(total.wall_seconds)} in {times(int(total.runs), 'run')}"
    if total.tuning_runs:
        text += f", and {units.duration(total.tuning_wall_seconds)} in {times(int(total.tuning_runs), 'tuning run')}"
    return text
