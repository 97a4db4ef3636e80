"""The trials of a shared queue as plain data: each is one attempt at a run. What the trials of a run say of it.

user attributes   `run`: the run's folder, seen from the study's; `beat`: changed by its driver; `attempt`: the folder
of a trial        with its result; `why`: why it failed, a word of WHYS, and `note` in words
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# lost: nobody beat for it, or its worker died. machine: the machine or its files made it fail. failed: by itself. The
# others were not tried: `interrupted` on purpose, no room on the `disk`, `duplicate` of another trial, `made up` by Optuna,
# `unknown` to every driver, `unstarted`: its driver died before it began.
LOST, MACHINE, FAILED, INTERRUPTED = "lost", "machine", "failed", "interrupted"
DISK, DUPLICATE, MADE_UP, UNKNOWN, UNSTARTED = "disk", "duplicate", "made up", "unknown", "unstarted"
COUNTED = (LOST, MACHINE)
WHYS = (LOST, MACHINE, FAILED, INTERRUPTED, DISK, DUPLICATE, MADE_UP, UNKNOWN, UNSTARTED)


class Row(NamedTuple):
    """A trial of the queue as plain data. state: the name of Optuna's state. run: None of one that Optuna made up."""

    number: int
    state: str
    run: str | None
    beat: dict[str, Any] | None
    attempt: str | None
    why: str | None
    note: str

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("WAITING", "RUNNING")


def row_of(trial: Any) -> Row:
    """The Row of one of Optuna's trials."""
    get = trial.user_attrs.get
    return Row(trial.number, trial.state.name, get("run"), get("beat"), get("attempt"), get("why"), get("note", ""))


def by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """{run: its trials in order}; those that Optuna made up are of none."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.run is not None:
            found.setdefault(row.run, []).append(row)
    return found


def failures(rows: Iterable[Row], forgiven: int) -> tuple[Row | None, list[Row]]:
    """(the first trial of a run that failed by itself, those that were lost), of the trials after the last forgiven one."""
    failed = [row for row in rows if row.state == "FAIL" and row.number > forgiven]
    return next((row for row in failed if row.why == FAILED), None), [row for row in failed if row.why in COUNTED]


def counts(rows: list[Row]) -> Iterator[tuple[str, int]]:
    """(what, how many) of a queue's trials: waiting, running, complete, and failed by why."""
    names = Counter(row.state.lower() if row.state != "FAIL" else f"failed ({row.why or 'no reason'})" for row in rows)
    yield from sorted(names.items())
