"""The queue of a study's runs in a storage that several drivers share: Optuna's trials, one for each attempt at a run.

A trial waits, runs, and is then complete or failed. A finished trial can never be written again, so whoever lost its trial
cannot finish, fail or beat for the next one. The queue holds nothing that the plan and the records do not say again.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from arch.errors import SpecError
from sweeps import storage as storages
from sweeps.leases import Terms, Watch
from sweeps.queue_rows import LOST, MADE_UP, UNSTARTED, Row, row_of
from sweeps.search.stored import set_attribute

OPTUNA = (UpdateFinishedTrialError, ValueError, KeyError, RuntimeError)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class SharedQueue:
    """A study's queue. `read` gives its Rows; every other method may find that a trial is somebody else's by now.

    say: called with a sentence when the storage goes away or comes back. Calls made meanwhile return None or False, and
    nothing is lost by them: what was to be told is told later (`finish`, `fail`). code, token: of this driver's code and folder.
    """

    study: Any
    storage: Any
    terms: Terms
    forgiven: int = -1
    say: Callable[[str], None] = print
    code: str = ""
    token: str = ""
    watch: Watch = field(init=False)
    trials: dict[int, Any] = field(default_factory=dict)
    beats: dict[int, int] = field(default_factory=dict)
    suspects: dict[int, float] = field(default_factory=dict)
    pending: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    gone_since: float | None = None
    next_try: float = 0.0

    def __post_init__(self):
        self.watch = Watch(longest=2 * self.terms.beat)

    @property
    def is_away(self) -> bool:
        """Whether the storage could not be reached last time."""
        return self.gone_since is not None

    def read(self) -> list[Row] | None:
        """The trials in order; None while the storage is away."""
        found = self._try(lambda: self.study.get_trials(deepcopy=False))
        return None if found is None else [row_of(trial) for trial in found]

    def check_place(self) -> None:
        """Raise SpecError in a driver that stood still for so long that drivers of other code or another folder came instead."""
        attrs = self._try(lambda: self.study.user_attrs) if self.code else None
        if attrs and (attrs["code"]["sources"], attrs["token"]) != (self.code, self.token):
            now = f"the code of {commit_of(attrs['code'])} in {attrs['host']}:{attrs['folder']}"
            raise SpecError(f"{self.study.study_name} goes on with {now}: this driver stood still for longer than its lease")

    def add(self, run: str) -> None:
        """Queue a run."""
        trial = optuna.create_trial(state=TrialState.WAITING, user_attrs={"run": run})
        self._try(lambda: self.study.add_trial(trial))

    def take(self) -> Row | None:
        """Take the trial that waits longest, and beat for it. None if it was one that Optuna made up, because none waited."""
        trial = self._try(self.study.ask)
        if trial is None:
            return None
        run = self._try(lambda: trial.user_attrs.get("run"))
        if run is None:
            if not self.is_away:
                self.fail(trial.number, MADE_UP)
            return None
        self.trials[trial.number], self.beats[trial.number] = trial, 0
        self.beat(trial.number)
        return Row(trial.number, "RUNNING", run, None, None, None, "")

    def beat(self, number: int, step: int | None = None) -> None:
        """Say that a trial of this process goes on. A trial that is somebody else's is noticed by the next `read`."""
        self.beats[number] = self.beats.get(number, 0) + 1
        beat = {"n": self.beats[number], "host": HOST, "pid": os.getpid(), "time": now()} | ({} if step is None else {"step": step})
        trial = self.trials[number]
        self._try(lambda: trial.set_user_attr("beat", beat))

    def finish(self, number: int, attempt: str) -> bool:
        """Commit: the run is what lies in the folder `attempt`. Returns whether it is so, or False for "not yet" or "refused"."""
        return self._end(number, "COMPLETE", attempt, "")

    def fail(self, number: int, why: str, note: str = "") -> bool:
        """Give a trial up. why: a word of WHYS. Returns whether the storage has it."""
        return self._end(number, "FAIL", why, note)

    def flush(self) -> None:
        """Tell again what could not be told."""
        for number, (state, value, note) in list(self.pending.items()):
            self._end(number, state, value, note)

    def stale(self, rows: Iterable[Row], mine: Iterable[int]) -> list[Row]:
        """The running trials of others for which nobody has beaten for a lease. Looks at them on this process's own clock.

        Before a trial is stale, this process shows that it can write: where nobody can (a full disk), nobody is stale.
        """
        running = {row.number: row for row in rows if row.state == "RUNNING" and row.number not in set(mine)}
        ages = self.watch.ages({number: row.beat for number, row in running.items()})
        self.suspects = {number: since for number, since in self.suspects.items() if ages.get(number, -1.0) >= since}
        late = []
        for number, age in ages.items():
            if number in self.suspects and age >= self.suspects[number] + self.terms.beat:
                late.append(running[number])
            elif number not in self.suspects and age >= self.terms.lease - self.terms.beat:
                self._set(number, "suspected", HOST)
                if self.is_away:
                    return []
                self.suspects[number] = age
        return late

    def lose(self, row: Row) -> None:
        """Take a stale trial away from its driver."""
        if row.beat is None:
            self.fail(row.number, UNSTARTED, "its driver ended before it began")
        else:
            who = f"{row.beat.get('host')}, process {row.beat.get('pid')}"
            self.fail(row.number, LOST, f"its driver ({who}) has not been heard of for {self.terms.lease:g} s")

    def tried(self, call: Callable[[], Any]) -> Any:
        """What a call that may use the storage returns; None while it is away. An error of a file is raised: OSError."""
        if self.is_away and time.monotonic() < self.next_try:
            return None
        try:
            return call()
        except storages.away() as error:
            if type(error).__module__ == "builtins":
                raise
            self._went(error)
            return None

    def note(self, key: str, value: Any) -> None:
        """Say something of the whole queue, for those who look at it."""
        self._try(lambda: self.study.set_user_attr(key, value))

    def _end(self, number, state, value, note):
        """Set what a trial ends with, then its state. Keeps it in `pending` while the storage is away."""
        self.pending[number] = state, value, note
        if state == "COMPLETE":
            told = self._set(number, "attempt", value) and self._try(lambda: self._tell(number, 0.0, TrialState.COMPLETE))
        else:
            told = self._set(number, "why", value) and (not note or self._set(number, "note", note))
            told = told and self._try(lambda: self._tell(number, None, TrialState.FAIL))
        if self.is_away:
            return False
        for known in (self.pending, self.trials, self.beats):
            known.pop(number, None)
        if told:
            return True
        # Refused, or it was told and the answer did not come back.
        row = next((row for row in self.read() or [] if row.number == number), None)
        if row is None:
            self.pending[number] = state, value, note
        return row is not None and row.state == state and (state == "FAIL" or row.attempt == value)

    def _tell(self, number, value, state):
        self.study.tell(number, value, state=state)
        return True

    def _set(self, number, key, value):
        return self._try(lambda: set_attribute(self.storage, self.study, number, key, value))

    def _try(self, call):
        """What a call returns; None if it is refused, or while the storage is away. Then it is asked again every few seconds."""
        if self.is_away and time.monotonic() < self.next_try:
            return None
        try:
            result = call()
        except storages.away() as error:
            self._went(error)
            return None
        except OPTUNA:  # the trial is finished; or an earlier call of this process is refused only now
            result = None
        if self.gone_since is not None:
            self.say(f"the storage is back after {time.monotonic() - self.gone_since:.0f} s")
            self.gone_since = None
        return result

    def _went(self, error):
        self.next_try = time.monotonic() + min(2.0, self.terms.beat / 4)
        self.watch.forget()
        self.suspects.clear()
        if self.gone_since is None:
            self.gone_since = time.monotonic()
            why = storages.why_away(error)
            self.say(f"the storage is away ({why}): runs go on, what they give is kept, and it is asked again every few seconds")


HOST = socket.gethostname()


def now() -> str:
    """The wall clock, for display only."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit_of(code: dict[str, Any]) -> str:
    """The version of code that a queue is of, in words."""
    return f"{code.get('commit', 'no commit')[:12]}{' with changes' if code.get('dirty') else ''}"
