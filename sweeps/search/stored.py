"""What Optuna's storage keeps of a trial beside its values, and what a trial's state is called in a record.

A trial that has ended can never be written again. Of several processes that come to the same end, the first one writes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

# User attributes. RUNS: {seed: its folder, relative to the study's}. WHY: why it failed, was pruned or is infeasible.
# COSTS: {cost: value}. MEASURED: {seed: {objective: value}}. IDENTITY: of the experiment.
RUNS, WHY, COSTS, IDENTITY, MEASURED = "runs", "error", "costs", "identity", "measured"
# WEIGHTS: {key: weight} of mixtures, whose coordinates the parameters are: for those who look with Optuna's own tools.
WEIGHTS = "weights"
# AGAIN: the machine made the trial fail, not the values tried. It is tried again when the study is started again.
AGAIN, REPLACES = "again", "replaces"
# SURPLUS: two processes began a trial at once where one was left; this one does not count.
SURPLUS = "surplus"
# The constraint of a point that cannot be built: 1 if it cannot.
BUILDS = "builds"
# Seconds after which a trial that somebody began to ask for, without getting its values, is given up.
HALF_ASKED = 300.0

State = Literal["finished", "failed", "pruned", "running", "infeasible"]
STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}


def state_of(trial: FrozenTrial) -> State:
    """The state of a trial that was begun, as a record calls it. Optuna has no state for infeasible: it is told pruned."""
    return "infeasible" if any(value > 0 for value in trial.constraints.values()) else STATES[trial.state]


def begun(trial: FrozenTrial) -> bool:
    """Whether a trial came to be tried: it has runs, or a reason why it has none."""
    return not trial.user_attrs.get(SURPLUS) and bool({RUNS, WHY, COSTS} & trial.user_attrs.keys())


def replaced(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the trials that later trials replace."""
    return {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs}


def is_given_up(trial: FrozenTrial, since: dict[int, float]) -> bool:
    """Whether a running trial that was not begun has stood so for too long. since: {number: when this process first saw it}."""
    now = time.monotonic()
    return now - since.setdefault(trial.number, now) > HALF_ASKED


def trial(storage: Any, study: Any, number: int) -> FrozenTrial:
    """One trial as it stands now."""
    return storage.get_trial(trial_id(storage, study, number))


def set_attribute(storage: Any, study: Any, number: int, key: str, value: Any) -> bool:
    """Set a user attribute of a trial. Returns False if the trial has ended: another process was first."""
    try:
        storage.set_trial_user_attr(trial_id(storage, study, number), key, value)
    except UpdateFinishedTrialError:
        return False
    return True


def tell(storage: Any, study: Any, number: int, values: Any = None, state: TrialState | None = None) -> bool:
    """Tell Optuna how a trial ended. Returns False if another process told it first."""
    try:
        study.tell(number, values, state)
    except (ValueError, UpdateFinishedTrialError):
        if not trial(storage, study, number).state.is_finished():
            raise
        return False
    return True


def trial_id(storage: Any, study: Any, number: int) -> int:
    """The storage's id of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)
