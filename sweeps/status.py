"""The progress of a study, from its records alone: no experiment spec is parsed and no data is read."""

from experiments.record import Failure, shown
from sweeps import shown_search
from sweeps.folders import record_of
from sweeps.progress import Cell, final_loss
from sweeps.record import StudyRecord
from sweeps.scale import at_scale
from sweeps.table import grid


def cells(folder, record):
    """`{(arm, "seed N"): Cell}` of a StudyRecord's reported runs, then of its helper runs.

    A run whose record says `running` may have been killed. It still runs only if its lock is held.
    """
    found = {}
    for label, arm in record.arms.items():
        for seed in record.seeds[: arm.seeds]:
            run = folder / arm.runs[str(seed)] if str(seed) in arm.runs else None
            found[label, f"seed {seed}"] = _cell(_measured(run, arm.evaluations) if run else None, run)
    for label, runs in record.helpers.items():
        for seed, place in runs.items():
            found[label, f"seed {seed}"] = _cell(record_of(folder / place), folder / place)
    return found


def _measured(run, files):
    """The record of a run with what the study measures of it, or None; failed where something could not be measured."""
    record, problems = record_of(run), []
    record = record and shown(record, run, files, problems)
    if not problems:
        return record
    failure = Failure(step=record.steps, error="NotMeasured", message=problems[0])
    return record.model_copy(update={"status": "failed", "failure": failure})


def _cell(record, run):
    if record is None:
        return Cell()
    state = record.status
    if state == "running" and not is_held(run):
        state = "interrupted"
    message = record.failure.message if record.failure else ""
    share = 1.0 if state == "finished" else 0.0
    return Cell(state=state, share=share, loss=final_loss(record), message=message)


def is_held(run):
    """Whether a process works on the run in a folder: whether its lock is held."""
    from filelock import FileLock, Timeout

    from sweeps.worker import LOCK

    if not (run / LOCK).exists():
        return False
    try:
        with FileLock(run / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def printed(folder, console):
    """Print the progress of the study in a folder. Returns False if no study was started there."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    record = StudyRecord.read(folder)
    if record is None:
        say(f"not started: no study.json in {folder}")
        return False
    found = cells(folder, record)
    console.print(grid(found, f"{record.name}{at_scale(record.scale)}"))
    states = [cell.state for cell in found.values()]
    count = {state: states.count(state) for state in dict.fromkeys(states)}
    say(", ".join(f"{n} {state}" for state, n in count.items()) + f"; folder: {folder}")
    for (row, column), cell in found.items():
        if cell.state == "failed":
            say(f"failed: {row} {column}: {cell.message}")
    if record.search:
        shown_search.status(record, say)
    if tried := [trial.state for trial in record.trials if trial.arm]:
        say("tuning runs: " + ", ".join(f"{tried.count(state)} {state}" for state in dict.fromkeys(tried)))
    for line in [*record.edges, *record.choices]:
        say(line)
    if set(count) != {"finished"}:
        say(f"resume with: {record.command}")
    return True
