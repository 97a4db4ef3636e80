"""What Optuna's storage keeps of a trial beside its values, and what a trial's state is called in a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

# User attributes. RUNS: {seed: its folder, relative to the study's}. WHY: why it failed, was pruned or is infeasible.
# COSTS: {cost: value}. MEASURED: {seed: {objective: value}}. IDENTITY: of the experiment.
RUNS, WHY, COSTS, IDENTITY, MEASURED = "runs", "error", "costs", "identity", "measured"
# AGAIN: the machine made the trial fail, not the values tried. It is tried again when the study is started again.
AGAIN, REPLACES = "again", "replaces"
# SURPLUS: two processes began a trial at once where one was left; this one does not count.
SURPLUS = "surplus"
# The constraint of a point that cannot be built: 1 if it cannot.
BUILDS = "builds"

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


def set_attribute(storage: Any, study: Any, number: int, key: str, value: Any) -> None:
    """Set a user attribute of a trial that is still running."""
    storage.set_trial_user_attr(trial_id(storage, study, number), key, value)


def trial_id(storage: Any, study: Any, number: int) -> int:
    """The storage's id of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)
