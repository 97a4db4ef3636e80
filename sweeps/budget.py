"""`budget:` of a study: each arm gets the steps that spend the same compute, tokens or time, in place of equal steps.

The steps become an override of `train.steps`, so that whatever comes after sees plain arms.
"""

from collections.abc import Callable, Mapping
from typing import Any

from arch.document import Node
from arch.errors import SpecError
from experiments import references
from experiments.plan import at_its_line
from experiments.spec import ExperimentSpec
from sweeps import paces, space
from sweeps.arms import Arm, Family, with_overrides
from sweeps.costs import exact_cost
from sweeps.record import BudgetRecord
from sweeps.spec import StudySpec

KEY = "train.steps"
# More steps than any run takes: a budget of more is a slip of the keyboard, and numbers beyond this are not exact.
MOST_STEPS = 10**12

Spent = Callable[[int], float]


def budgeted(spec: StudySpec, study: Node, base: Node, seconds: Mapping[str, float]) -> tuple[StudySpec, Node, list[BudgetRecord]]:
    """(StudySpec, study node, the steps of each arm) with the steps as overrides of the arms.

    seconds: {`sweeps.paces.key`: of a step}. In a budget of seconds, arms that it lacks are left out. Raises SpecError, at its
    line, for a budget below one step and for an arm that writes its own steps.
    """
    budget = spec.budget
    if budget is None:
        return spec, study, []
    where, family = ("budget", budget.kind), Family(spec, study, base)
    of = {label: spec.beside(budget.amount, label) if isinstance(budget.amount, str) else "" for label in spec.arms}
    labels = [label for label in spec.arms if label not in spec.winners and not _keeps_its_steps(study, label, label == of[label])]
    spending = {label: _spent(family.arm(label), budget.kind, seconds) for label in labels}
    found = []
    for label, spent in spending.items():
        named = of[label]
        amount = _of_arm(named, family, spending, study, where) if named else budget.amount
        if spent is None or amount is None:
            continue
        if label != named and amount / spent(1) > MOST_STEPS:
            raise study.error(f"arm {label!r}: {amount / spent(1):.3g} steps; expected at most {MOST_STEPS:.0e}", where)
        steps = family.arm(label).spec.train.steps if label == named else _steps(amount, spent)
        if steps < 1:
            least = BudgetRecord(arm=label, kind=budget.kind, amount=amount, to=named, steps=1, spent=spent(1), residual=0.0)
            raise study.error(f"arm {label!r}: below one step, which takes {least.taken}", where)
        pace = paces.key(family.arm(label)) if budget.kind == "seconds" else ""
        found.append(
            BudgetRecord(
                arm=label,
                kind=budget.kind,
                amount=amount,
                to=named,
                steps=steps,
                spent=spent(steps),
                residual=spent(steps) / amount - 1,
                step_seconds=seconds.get(pace),
                pace=pace,
            )
        )
    steps = {each.arm: {KEY: each.steps} for each in found if each.arm != each.to}
    steps |= {label: steps[arm] for label, arm in spec.winners.items() if arm in steps}
    return *with_overrides(spec, study, steps, study.at(where)), found


def unmeasured(spec: StudySpec, arms: list[Arm]) -> list[str]:
    """The labels of the arms whose steps a budget of seconds cannot say yet, because the time of a step is not known."""
    if spec.budget is None or spec.budget.kind != "seconds":
        return []
    return [arm.label for arm in arms if arm.budget is None and arm.spec.train.steps and arm.label not in spec.winners]


def check_tuned(study: Node, spec: StudySpec, arms: list[Arm]) -> None:
    """Raise SpecError for a tuned key that `budget` decides, or with which what an arm spends would change."""
    if spec.budget is None or spec.tune is None:
        return
    for key in spec.tune.space:
        where = ("tune", "space", key)
        if key == KEY:
            raise study.error("`budget` decides the steps, so they cannot be tuned too", where)
        if not key.startswith(("model.", "data.", "train.")):
            continue
        for arm in arms:
            for values in space.points(space.widest(spec.tune, arm.spec), arm.spec) if arm.budget else ():
                if _changes(arm, spec.budget.kind, {key: values[key]}):
                    reason = f"what arm {arm.label!r} spends changes with it, which `budget` makes equal"
                    raise study.error(f"{reason}; tune what changes no cost, or leave out `budget`", where)


def _changes(arm: Arm, kind: str, values: dict[str, Any]) -> bool:
    """Whether an arm's step costs something else with other values. A step whose FLOPs change takes other seconds too."""
    from sweeps.matching import resolved

    tried, kind = resolved(arm.document, values), "tokens" if kind == "tokens" else "flops"
    return tried is not None and _of(tried, arm, kind)(1) != _of(arm.spec, arm, kind)(1)


def _keeps_its_steps(study: Node, label: str, is_named: bool) -> bool:
    """Whether the budget does not concern an arm: it trains nothing. Raises SpecError for one that writes other steps."""
    arm = study.value["arms"].value[label]
    train = arm.value.get("train")
    written = arm.value.get(KEY) or (train.value.get("steps") if train is not None and isinstance(train.value, dict) else None)
    if written is None or is_named:
        return False
    if written.value != 0:
        reason = "`budget` decides the steps of this arm; leave them out (an arm with `train.steps: 0` trains nothing)"
        raise SpecError(reason, ("arms", label, KEY), written.file, written.line)
    return True


def _of_arm(label: str, family: Family, spending: Mapping[str, Spent | None], study: Node, where: tuple[str, str]) -> float | None:
    """What an arm spends by its own steps; None if that is not known yet."""
    steps, spent = family.arm(label).spec.train.steps, spending[label]
    if steps == 0:
        raise study.error(f"arm {label!r} trains nothing (train.steps: 0), so it is no budget", where)
    return None if spent is None else spent(steps)


def _spent(arm: Arm, kind: str, seconds: Mapping[str, float]) -> Spent | None:
    """{steps: what an arm spends} as a function; None if the time of its step is not known."""
    if kind != "seconds":
        return _of(arm.spec, arm, kind)
    pace = seconds.get(paces.key(arm))
    return None if pace is None else lambda steps: steps * pace


def _of(spec: ExperimentSpec, arm: Arm, kind: str) -> Spent:
    """What an arm spends with this spec, as a function of the steps: tokens, or ideal FLOPs with those of its objective."""
    at = lambda steps: spec.model_copy(update={"train": spec.train.model_copy(update={"steps": steps})})  # noqa: E731
    if kind == "tokens":
        return lambda steps: float(at(steps).tokens)
    per_token = exact_cost("cost/flops_per_token", spec) or 0.0

    def spent(steps: int) -> float:
        with at_its_line(arm.document):
            used = references.referred(spec, {position: need.spec for position, need in arm.needs.items()})
            return per_token * at(steps).tokens + references.costs(at(steps), None, used).get("flops", 0.0)

    return spent


def _steps(amount: float, spent: Spent) -> int:
    """The whole number of steps that spends nearest to an amount; 0 if one step is more than that."""
    if amount < spent(1):
        return 0
    steps = max(1, round(amount / spent(1)))
    for _ in range(8):  # once, unless what a step takes depends on their number
        nearer = max(1, round(steps * amount / spent(steps)))
        if abs(spent(nearer) - amount) >= abs(spent(steps) - amount):
            break
        steps = nearer
    return steps
