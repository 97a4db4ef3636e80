"""Follow a study while it runs: do something now, and again whenever one of its records has changed, until Ctrl-C."""

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from arch.errors import DataError
from experiments.record import EVALUATIONS, HISTORY_NAME, RECORDS
from sweeps.record import NAME as STUDY
from sweeps.record import StudyRecord

SECONDS = 5.0
# What is done may take this part of the time at most, so that whoever watches does not slow the runs down.
SHARE = 0.2

State = dict[str, tuple[int, int]]


def follow(folder: Path, act: Callable[[], str], alive: Callable[[], Any] = lambda: True, seconds: float = SECONDS) -> None:
    """Call `act` now and after every change, and print what it says; returns at Ctrl-C, or once `alive()` is false.

    The first call may raise; later a file that cannot be read or written is a warning, and the next change is tried again.
    """
    seen: State | None = None
    try:
        while alive():
            now, wait = state(folder), seconds
            if now != seen:
                began = time.monotonic()
                try:
                    print(f"{datetime.now():%H:%M:%S} {act()}", flush=True)
                except (DataError, OSError) as error:
                    if seen is None:
                        raise
                    print(f"warning: {error}", file=sys.stderr, flush=True)
                seen, wait = now, max(seconds, (time.monotonic() - began) / SHARE)
            _sleep(wait, alive)
    except KeyboardInterrupt:
        return


def _sleep(seconds: float, alive: Callable[[], Any]) -> None:
    end = time.monotonic() + seconds
    while alive() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))


def state(folder: Path) -> State:
    """{file: (when it was written, size)} of everything of a study that a report is made from; without what is not there."""
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError):  # `act` says what is wrong with it
        record = None
    places = [""] if record is None else ["", *_runs(record)]
    found = {}
    for place in places:
        for name in (STUDY,) if not place else (*RECORDS, HISTORY_NAME, EVALUATIONS):
            try:
                stat = (folder / place / name).stat()
            except OSError:
                continue
            found[f"{place}/{name}"] = (stat.st_mtime_ns, stat.st_size)
    return found


def _runs(record: StudyRecord) -> list[str]:
    """The folders of all runs of a study, below its own."""
    reported = [run for arm in record.arms.values() for run in arm.runs.values()]
    helpers = [run for runs in record.helpers.values() for run in runs.values()]
    tried = [run for trial in record.trials for run in [trial.run, *(trial.runs or {}).values()] if run]
    return list(dict.fromkeys([*reported, *helpers, *tried]))


def progress(study: Any) -> str:
    """`12 of 15 runs finished`, of a StudyData."""
    return f"{(study.runs.status == 'finished').sum()} of {len(study.runs)} runs finished"
