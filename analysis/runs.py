"""A study's folder as data: a row for every arm and seed, and the curves of its runs.

Whatever can be read is used; what cannot is named in `problems`, and its run stays a row.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arch.errors import DataError
from experiments.record import HISTORY_COLUMNS, HISTORY_NAME, RunRecord
from experiments.record import NAME as RUN_FILE
from sweeps.record import NAME as STUDY_FILE
from sweeps.record import StudyRecord


@dataclass(frozen=True)
class StudyData:
    """What a study's folder holds.

    runs: a row an arm and seed, in the study's order: arm, seed, status, folder, wall_seconds, steps, tokens, failure,
    then its metrics and timings (NaN where a run has none). status is that of its record, `missing` where no record
    is, `unreadable` where one cannot be read. curves: long, a row a logged step, as `history`.
    """

    folder: Path
    record: StudyRecord
    records: dict[tuple[str, int], RunRecord]
    runs: pd.DataFrame
    curves: pd.DataFrame
    problems: list[str]

    @property
    def baseline(self):
        """The label of the first arm."""
        return next(iter(self.record.arms))

    def losses(self, metric):
        """{arm: {seed: loss in nats}} of the finished runs; every arm is a key.

        A perplexity is taken as its logarithm. Raises DataError for a metric that is neither a loss nor a perplexity.
        """
        kind = metric.rpartition("/")[2]
        if kind not in ("loss", "perplexity"):
            raise DataError(f"claim.metric: {metric} is neither .../loss (in nats) nor .../perplexity")
        found = {arm: {} for arm in self.record.arms}
        for (arm, seed), run in self.records.items():
            if run.status == "finished" and metric in run.metrics:
                value = run.metrics[metric]
                found[arm][seed] = value if kind == "loss" else float(np.log(value))
        return found


def study_frame(folder):
    """A DataFrame with a row for every arm and seed of a study, as in StudyData.runs."""
    return load(folder).runs


def history(folder):
    """A long DataFrame of every run's curves: arm, seed, then HISTORY_COLUMNS. `select/...` is NaN where not evaluated."""
    return load(folder).curves


def load(folder):
    """The StudyData of a folder. Raises DataError where there is no study that can be read."""
    folder = Path(folder)
    record = _study_record(folder)
    records, rows, curves, problems = {}, [], [], []
    for arm, seed, path in _planned(folder, record):
        run, row = _row(arm, seed, path, record.arms[arm].identity, problems)
        rows.append(row)
        if run is not None:
            records[arm, seed] = run
            curves.append(_curve(arm, seed, path, run, problems))
    curves = [curve for curve in curves if curve is not None]
    return StudyData(folder, record, records, pd.DataFrame(rows), _stacked(curves), problems)


def _study_record(folder):
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / STUDY_FILE}: cannot be read as a study's record: {error}") from None
    if record is None:
        raise DataError(f"{folder}: {_why_no_study(folder)}")
    if not record.arms:
        raise DataError(f"{folder / STUDY_FILE}: the study has no arms")
    return record


def _why_no_study(folder):
    if not folder.is_dir():
        return "no such folder; give the folder of a study, as `python -m sweeps run` names it"
    below = [str(path.parent) for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{STUDY_FILE}"))]
    if below:
        return f"no {STUDY_FILE} in it; there are studies in {', '.join(below[:5])}"
    return f"no {STUDY_FILE} in it; `python -m sweeps run STUDY` makes a study and names its folder"


def _planned(folder, record):
    """(arm, seed, run folder or None) for every run of the plan, started or not."""
    for label, arm in record.arms.items():
        extra = sorted(int(seed) for seed in arm.runs if int(seed) not in record.seeds)
        for seed in [*record.seeds, *extra]:
            path = arm.runs.get(str(seed))
            yield label, seed, None if path is None else folder / path


def _row(arm, seed, path, identity, problems):
    """(RunRecord or None, the run's row); says in `problems` what is wrong with its files."""
    run, status, failure = None, "missing", "not started"
    try:
        run = None if path is None else RunRecord.read(path)
    except (OSError, ValueError) as error:
        status, failure = "unreadable", f"{path / RUN_FILE}: {error}"
        problems.append(failure)
    if run is not None:
        status, failure = run.status, _reason(run)
        if run.identity != identity:
            problems.append(f"{path / RUN_FILE}: made from another spec or other data than arm {arm} has in {STUDY_FILE}")
    row = {
        "arm": arm,
        "seed": seed,
        "status": status,
        "folder": None if path is None else str(path),
        "wall_seconds": run.wall_seconds if run else np.nan,
        "steps": run.steps if run else 0,
        "tokens": run.tokens if run else 0,
        "failure": failure,
    }
    return run, row | (run.metrics | run.timing if run else {})


def _reason(run):
    """Why a run did not finish, in words; empty for one that did."""
    if run.failure is not None:
        groups = f" ({', '.join(run.failure.parameters)})" if run.failure.parameters else ""
        return f"{run.failure.error} at step {run.failure.step}: {run.failure.message}{groups}"
    return {"finished": "", "running": "has not ended", "interrupted": "interrupted; resumes"}.get(
        run.status, "its record gives no reason"
    )


def _curve(arm, seed, path, run, problems):
    """A run's history as a DataFrame, or None with a word in `problems` where a finished run has none."""
    file = path / HISTORY_NAME
    if not file.is_file():
        if run.status == "finished":
            problems.append(f"{file}: missing")
        return None
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return None
    absent = [name for name in ("step", "tokens") if name not in frame]
    if absent:
        problems.append(f"{file}: has no column {', '.join(absent)}")
        return None
    frame = frame.reindex(columns=list(HISTORY_COLUMNS))
    frame.insert(0, "arm", arm)
    frame.insert(1, "seed", seed)
    return frame


def _stacked(curves):
    if not curves:
        return pd.DataFrame(columns=["arm", "seed", *HISTORY_COLUMNS])
    return pd.concat(curves, ignore_index=True)
