"""A study's folder as data: one row per arm and seed, and the curves of its runs.

Files that cannot be read are named in `problems`. Their runs keep their rows.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import evaluated
from analysis.conditions import with_differences
from arch.contracts import Metric
from arch.errors import DataError, reason_of
from experiments.metrics import is_measured_once, known
from experiments.record import HISTORY_NAME, Failure, RunRecord, record_file, shown, with_performance
from sweeps.costs import cost_metric
from sweeps.failures import failed_in
from sweeps.record import NAME as STUDY_FILE
from sweeps.record import StudyRecord


class Failures(NamedTuple):
    """The runs of an arm that failed.

    failed: how many failed by the model: its numbers, its code. planned: the arm's runs. sentence: `failed in 2 of 2 seeds
    (loss not finite at step 0, first in blocks.0.mixer)`; empty if none failed. seeds: which failed. lost: how many failed
    by the machine (no memory, a lost worker, a file); they say nothing of the model, and another start may finish them.
    why_lost: like `sentence`, for these.
    """

    failed: int
    planned: int
    sentence: str
    seeds: tuple[int, ...]
    lost: int
    why_lost: str


@dataclass(frozen=True)
class StudyData:
    """The contents of a study's folder.

    runs: one row per arm and seed, in the study's order: arm, seed, status, folder, wall_seconds, steps, tokens,
    training_flops, failure, then metrics, speed, memory and timings (NaN if a run has none). status: from the run's
    record; `missing` without a record; `unreadable` if the record cannot be read. records: the runs' records; measured: the
    same with what the study measured, speed and memory among its metrics. metrics: what was measured of each run that has a
    record, {SPLIT/METRIC: number}, with speed and memory if it has finished. metric_info: what each of these metrics is, as
    the records say. histories: {(arm, seed): the columns of the run's curves}, of the runs that have some.
    unreported: one row per tuning run, trial of a search and helper run: role (`tuning`, `trial`, `helper`), arm (or the
    helper run's name), seed, status, folder, wall_seconds, steps, tokens, training_flops, and `values`, what a tuning run tried.
    other_records: {folder as in `unreported`: RunRecord} of those that have a record.
    evaluated: everything that was measured of the finished runs, also of evaluators that no arm's spec asks for.
    problems: sentences about files that are missing, unreadable or inconsistent.
    """

    folder: Path
    record: StudyRecord
    records: dict[tuple[str, int], RunRecord]
    measured: dict[tuple[str, int], RunRecord]
    metrics: dict[tuple[str, int], dict[str, float]]
    metric_info: dict[str, Metric]
    runs: pd.DataFrame
    histories: dict[tuple[str, int], list[str]]
    unreported: pd.DataFrame
    other_records: dict[str, RunRecord]
    evaluated: list[evaluated.Evaluated]
    problems: list[str]

    @cached_property
    def curves(self):
        """All curves: one row per run and logged step, with every column that some run has (NaN for a run without it)."""
        return self.curves_of(self.record.arms)

    def curves_of(self, arms):
        """The `curves` of some arms; only their files are read. Appends to `problems` what cannot be read."""
        whole = self.__dict__.get("curves")  # all of them were read before
        if whole is not None:
            return whole[whole.arm.isin(arms)]
        tables = {
            (arm, seed): _table(self.folder / self.record.arms[arm].runs[str(seed)], self.problems)
            for arm, seed in self.histories
            if arm in arms
        }
        return _stacked({key: table for key, table in tables.items() if table is not None})

    @property
    def baseline(self):
        """The label of the first arm."""
        return next(iter(self.record.arms))

    def metric(self, name):
        """What SPLIT/METRIC is: as a record says of this split or another, else as it is known, else Metric()."""
        last = name.rpartition("/")[2]
        others = (metric for other, metric in self.metric_info.items() if other.rpartition("/")[2] == last)
        exact = known(name) if is_measured_once(name) else None
        return exact or self.metric_info.get(name) or next(others, None) or known(name) or Metric()

    def values(self, name):
        """{arm: {seed: value}} of a metric over the finished runs; every arm is a key."""
        values: dict[str, dict[int, float]] = {arm: {} for arm in self.record.arms}
        for (arm, seed), run in self.records.items():
            if run.status == "finished" and name in self.metrics[arm, seed]:
                values[arm][seed] = self.metrics[arm, seed][name]
        return values

    def cost(self, arm, name):
        """The value of a cost (`cost/NAME`) of an arm, or None if its record does not tell."""
        record = self.record.arms[arm]
        value = record.costs.get(name)
        return cost_metric(name, None, record.cost) if value is None else value

    def failures(self, arm):
        """The Failures of an arm. Runs that are missing, interrupted, running or unreadable are not among them."""
        planned = sum(self.runs.arm == arm)
        unsaid = Failure(step=-1, error="Failed", message="its record gives no reason")
        own = {seed: run for (label, seed), run in self.records.items() if label == arm and run.status == "failed"}
        ended = {seed: run.failure or unsaid for seed, run in own.items()}
        lost = {seed: failure for seed, failure in ended.items() if failure.by_machine}
        mine = {seed: failure for seed, failure in ended.items() if seed not in lost}
        return Failures(len(mine), planned, failed_in(mine, planned), tuple(mine), len(lost), failed_in(lost, planned))


def study_frame(folder):
    """A DataFrame with one row per arm and seed of a study (StudyData.runs)."""
    return load(folder).runs


def history(folder):
    """A DataFrame of all curves (StudyData.curves). `select/...` is NaN at steps without evaluation."""
    return load(folder).curves


def load(folder):
    """The StudyData of a folder. Raises DataError if the folder has no readable study."""
    folder = Path(folder)
    record, home = _study_record(folder), folder.resolve()
    records, everything, metrics, rows = {}, {}, {}, []
    histories: dict[tuple[str, int], list[str]] = {}
    finished: dict[tuple[str, int], evaluated.Run] = {}
    metric_info: dict[str, Metric] = {}
    problems: list[str] = []
    for arm, seed, path in _planned(folder, record):
        run, row = _row(arm, seed, path, record.arms[arm].identity_of(seed), problems)
        rows.append(row)
        if run is not None:
            records[arm, seed] = run
            measured = shown(run, path, record.arms[arm].evaluations, problems)
            measured = with_performance(measured)
            everything[arm, seed], metrics[arm, seed] = measured, measured.metrics
            metric_info |= measured.metric_info
            rows[-1] |= metrics[arm, seed] | run.timing
            if columns := _columns(path, run, problems):
                histories[arm, seed] = columns
            if run.status == "finished":
                reused = not path.resolve().is_relative_to(home)
                finished[arm, seed] = evaluated.Run(path, run.identity, record.arms[arm].evaluations.values(), reused)
    record = with_differences(record, records)
    unreported, others = _unreported(folder, record)
    frame = pd.DataFrame(rows)
    found = evaluated.read(finished, record.arms, problems)
    return StudyData(
        folder, record, records, everything, metrics, metric_info, frame, histories, unreported, others, found, problems
    )


def _study_record(folder):
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError) as error:
        file = folder / STUDY_FILE
        raise DataError(f"{file}: cannot be read as a study's record: {reason_of(error, file)}") from None
    if record is None:
        raise DataError(f"{folder}: {_why_no_study(folder)}")
    if not record.arms:
        raise DataError(f"{folder / STUDY_FILE}: the study has no arms")
    return record


def _why_no_study(folder):
    if not folder.is_dir():
        return "no such folder; give the folder of a study, which `archbench study run` prints"
    below = [str(path.parent) for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{STUDY_FILE}"))]
    if below:
        return f"no {STUDY_FILE} in it; there are studies in {', '.join(below[:5])}"
    return f"no {STUDY_FILE} in it; `archbench study run STUDY` runs a study and prints its folder"


def _planned(folder, record):
    """Yield (arm, seed, run folder or None) for every planned run, started or not."""
    for label, arm in record.arms.items():
        seeds = record.seeds_of(label)
        extra = sorted(int(seed) for seed in arm.runs if int(seed) not in seeds)
        for seed in [*seeds, *extra]:
            path = arm.runs.get(str(seed))
            yield label, seed, None if path is None else folder / path


def _row(arm, seed, path, identity, problems):
    """(RunRecord or None, the run's row without its numbers). Appends to `problems` what is wrong with the run's files."""
    run, status, failure = None, "missing", "not started"
    try:
        run = None if path is None else RunRecord.read(path)
    except (OSError, ValueError) as error:
        status, failure = "unreadable", f"{record_file(path)}: {error}"
        problems.append(failure)
    if run is not None:
        status, failure = run.status, reason(run)
        if run.identity != identity:
            problems.append(f"{record_file(path)}: its spec or data differ from those of arm {arm} in {STUDY_FILE}")
    row = {
        "arm": arm,
        "seed": seed,
        "status": status,
        "folder": None if path is None else str(path),
        "wall_seconds": run.wall_seconds if run else np.nan,
        "steps": run.steps if run else 0,
        "tokens": run.tokens if run else 0,
        "training_flops": training_flops(run),
        "failure": failure,
    }
    return run, row


def training_flops(run):
    """The FLOPs of training that a run has executed so far; NaN without a record or without a cost in it.

    With the part of what its objective costs (a teacher's forward passes) that belongs to the steps done.
    """
    per_token = run.cost.get("flops_per_token", {}).get("executed", {}).get("train") if run else None
    if per_token is None:
        return np.nan
    steps = run.spec.get("train", {}).get("steps") or 1
    return float(per_token) * run.tokens + run.cost.get("objective", {}).get("flops", 0.0) * run.steps / steps


UNREPORTED = ["role", "arm", "seed", "status", "folder", "wall_seconds", "steps", "tokens", "training_flops", "values"]


def _unreported(folder, record):
    """(a frame with a row per tuning and helper run, {folder: RunRecord}).

    A tuning run whose trial could not be built has no folder, and was no run.
    """
    trials = [each for each in record.trials if each.run]
    planned = [(role_of(each), each.arm, each.seed, each.run, each.state, each.values) for each in trials]
    helpers = [(label, seed, place) for label, places in record.helpers.items() for seed, place in places.items()]
    planned += [("helper", label, int(seed), place, "missing", {}) for label, seed, place in helpers]
    rows, records = [], {}
    for role, arm, seed, place, status, values in planned:
        path = str(folder / place)
        run = RunRecord.read_whole(path)
        spent = [status, path, np.nan, 0, 0]
        if run is not None:
            records[path] = run
            spent = [run.status, path, run.wall_seconds, run.steps, run.tokens]
        rows.append([role, arm, seed, *spent, training_flops(run), values])
    return pd.DataFrame(rows, columns=UNREPORTED), records


def role_of(trial):
    """What a TrialRecord's run is: `tuning` of an arm, or `trial` of the study's own search."""
    return "tuning" if trial.arm else "trial"


def reason(run):
    """Why a run did not finish, in words; empty if it finished."""
    if run.failure is not None:
        return run.failure.reason
    return {"finished": "", "running": "has not ended", "interrupted": "interrupted; a new start resumes it"}.get(
        run.status, "its record gives no reason"
    )


def _columns(path, run, problems):
    """The columns of a run's curves, none without any. Unusable files and finished runs without one are added to `problems`.

    Only the end of the file is read, which says what is in it.
    """
    import pyarrow.parquet

    file = path / HISTORY_NAME
    if not file.is_file():
        if run is not None and run.status == "finished":
            problems.append(f"{file}: missing")
        return []
    try:
        names = pyarrow.parquet.read_schema(file).names
    except (OSError, ValueError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return []
    absent = [name for name in ("step", "tokens") if name not in names]
    if absent:
        problems.append(f"{file}: has no column {', '.join(absent)}")
    return [] if absent else names


def _table(path, problems):
    """A run's curves as an Arrow table; None, and a problem, where they cannot be read."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path / HISTORY_NAME).read(use_threads=False)
    except (OSError, ValueError) as error:
        problems.append(f"{path / HISTORY_NAME}: cannot be read: {error}")
        return None


def curve_of_run(folder):
    """The curves of one run as a DataFrame; None if it has none that can be read."""
    table = _table(Path(folder), []) if _columns(Path(folder), None, []) else None
    return None if table is None else table.to_pandas(ignore_metadata=True)


def _stacked(curves):
    """All curves, {(arm, seed): Arrow table}, below each other; the columns are the union, in the order in which runs have them."""
    import pyarrow

    if not curves:
        return pd.DataFrame(columns=["arm", "seed", "step", "tokens"])
    # Without the notes of pandas, which may name an index.
    tables = [table.replace_schema_metadata() for table in curves.values()]
    run = np.repeat(np.arange(len(curves)), [len(table) for table in tables])
    named = {
        "arm": pyarrow.array([arm for arm, _ in curves]).take(run),
        "seed": pyarrow.array([seed for _, seed in curves]).take(run),
    }
    stacked = pyarrow.concat_tables(tables, promote_options="permissive")
    return pyarrow.table(named | dict(zip(stacked.column_names, stacked.columns, strict=True))).to_pandas()
