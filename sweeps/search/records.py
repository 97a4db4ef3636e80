"""The trials of a search as a study's record has them: one TrialRecord per run, and one for a trial that trained nothing."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial

from sweeps.record import TrialRecord
from sweeps.search import space as spaces
from sweeps.search import stored
from sweeps.search.space import Axis


def of_trial(trial: FrozenTrial, axes: tuple[Axis, ...], objectives: Iterable[str]) -> list[TrialRecord]:
    """The TrialRecords of a trial that was begun. objectives: the names of all, the first of which is a record's `value`."""
    attrs, state, names = trial.user_attrs, stored.state_of(trial), list(objectives)
    about = dict(
        arm="",
        values=spaces.recorded(axes, trial.params),
        number=trial.number,
        constraints=dict(trial.constraints),
        why=attrs.get(stored.WHY, ""),
        state=state,
    )
    costs = attrs.get(stored.COSTS, {})
    if stored.RUNS not in attrs:
        known = {name: value for name, value in costs.items() if name in names}
        return [TrialRecord(**about, seed=None, value=known.get(names[0]), objectives=known)]
    records = []
    for seed, run in attrs[stored.RUNS].items():
        measured = {**costs, **attrs.get(stored.MEASURED, {}).get(seed, {})}
        known = {name: measured[name] for name in names if name in measured}
        records.append(TrialRecord(**about, seed=int(seed), run=run, value=known.get(names[0]), objectives=known))
    return records
