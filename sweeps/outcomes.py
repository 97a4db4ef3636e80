"""What the runs of a study measured so far, read from their records."""

import os
from pathlib import Path

from experiments.record import shown, with_performance
from sweeps import folders
from sweeps.record import NAME, StudyRecord


def runs_of(record, folder):
    """{(arm, seed): RunRecord} of the runs that a StudyRecord names, with what the study measures of each.

    Runs without a record are not in it. What is missing of a run's measurements is not in its metrics.
    """
    runs = {}
    for label, arm in record.arms.items():
        for seed, place in arm.runs.items():
            run = folders.record_of(Path(folder) / place)
            if run is not None:
                runs[label, int(seed)] = with_performance(shown(run, Path(folder) / place, arm.evaluations, []))
    return runs


def finished_runs(folder):
    """[(arm and seed in words, folder)] of the finished runs in a study's folder, each once; None if it is no study's folder."""
    if not (Path(folder) / NAME).exists():
        return None
    runs: dict[Path, tuple[str, Path]] = {}
    for label, arm in StudyRecord.read(folder).arms.items():
        for seed, place in arm.runs.items():
            path = Path(os.path.normpath(Path(folder) / place))
            if folders.is_finished(path, arm.identity_of(int(seed)), int(seed)):
                runs.setdefault(path.resolve(), (f"{label}, seed {seed}", path))
    return list(runs.values())
