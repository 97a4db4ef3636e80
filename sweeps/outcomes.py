"""What the runs of a study measured so far, read from their records."""

from pathlib import Path

from experiments.record import shown, with_performance
from sweeps import folders


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
