"""The progress of a study, from its records alone: no experiment spec is parsed and no data is read."""

from dataclasses import replace
from pathlib import Path

from experiments.record import record_file, shown
from sweeps import shown_search
from sweeps.folders import record_of
from sweeps.progress import Cell, final_loss
from sweeps.record import StudyRecord
from sweeps.scale import at_scale
from sweeps.table import grid


def cells(folder, record, edited=None):
    """`{(arm, "seed N"): Cell}` of a StudyRecord's reported runs, then of its helper runs.

    A run whose record says `running` may have been killed. It still runs only if its lock is held. edited: how the study's
    file has changed since (`sweeps.edited.Edited`): then the arms and seeds are those of the file.
    """
    found = {}
    seeds = edited.seeds if edited else {label: record.seeds_of(label) for label in record.arms}
    for label, own in seeds.items():
        arm = record.arms.get(label) if not (edited and label in edited.changed) else None
        for seed in own:
            run = folder / arm.runs[str(seed)] if arm and str(seed) in arm.runs else None
            found[label, f"seed {seed}"] = _measured(run, arm.evaluations) if run else Cell()
    for label, runs in record.helpers.items():
        for seed, place in runs.items():
            found[label, f"seed {seed}"] = _helper(folder, place, record.helper_evaluations.get(label))
    return found


def _measured(run, files):
    """The cell of a reported run; it is `to measure` where it lacks an evaluation, which the next start adds without training."""
    record, problems = record_of(run), []
    cell = _cell(record and shown(record, run, files, problems), run)
    return replace(cell, state="to measure", share=0.0, message=f"{problems[0]}; the next start measures it") if problems else cell


def _helper(folder, place, files):
    """The cell of a helper run. files: the evaluations that the study makes of it; None: its record is older than these.

    A run that another study made has that study's evaluations, too: their loss is not this study's.
    """
    run = folder / place
    if files:
        return _measured(run, files)
    cell = _cell(record_of(run), run)
    own = files is None and ".." not in Path(place).parts
    return cell if own else replace(cell, loss=None)


def _cell(record, run):
    if record is None:
        unreadable = run is not None and (file := record_file(run)).exists()
        return Cell(state="unreadable", message=f"{file} cannot be read; the run is done again") if unreadable else Cell()
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


def printed(folder, console, edited=None):
    """Print the progress of the study in a folder. Returns False if no study was started there. edited: see `cells`."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    record = StudyRecord.read(folder)
    if record is None:
        say(f"not started: no study.json in {folder}")
        return False
    found = cells(folder, record, edited)
    console.print(grid(found, f"{record.name}{at_scale(record.scale)}", console.width))
    states = [cell.state for cell in found.values()]
    count = {state: states.count(state) for state in dict.fromkeys(states)}
    changes = f": {edited.words}" if edited and edited.words else ""
    say(", ".join(f"{n} {state}" for state, n in count.items()) + f"{changes}; folder: {folder}")
    if edited and edited.warning:
        say(edited.warning)
    for (row, column), cell in found.items():
        if cell.state in ("failed", "unreadable", "to measure"):
            say(f"{cell.state}: {row} {column}: {cell.message}")
    if record.search:
        shown_search.status(record, say)
    if tried := [trial.state for trial in record.trials if trial.arm]:
        say("tuning runs: " + ", ".join(f"{tried.count(state)} {state}" for state in dict.fromkeys(tried)))
    for line in [*record.edges, *record.choices]:
        say(line)
    if set(count) != {"finished"}:
        say(f"resume with: {record.command}")
    return True
