"""Arms whose cost differs from the baseline's though nothing makes it equal, and the line of `match` that would."""

from collections.abc import Mapping, Sequence

from arch import units
from arch.words import listed
from experiments.metrics import canonical, title
from sweeps.arms import Arm
from sweeps.spec import StudySpec

# A difference up to this is not worth a line.
SMALL = 0.01
PARAMETERS = "cost/parameters"
QUANTITIES = (PARAMETERS, "cost/flops_per_token")


def hints(spec: StudySpec, arms: Sequence[Arm], costs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence per cost that no `match` or `budget` makes equal and in which arms differ from the first of their size.

    costs: {label: {one of QUANTITIES: value}}. Nothing is said of controls, which are to be worse, nor of a cost that the study
    asks about: that a claim or an axis of a figure names. No key is suggested that an arm changes, as that would undo it.
    """
    settled = {match.quantity for _, match in spec.matches} | _asked(spec)
    if spec.budget and spec.budget.kind == "flops":
        settled.add("cost/flops_per_token")
    first = spec.without_size(next(iter(spec.arms)))
    asked = [label for label in costs if label not in spec.controls]
    ratios = {
        quantity: {label: costs[label][quantity] / costs[spec.beside(first, label)][quantity] - 1 for label in asked}
        for quantity in QUANTITIES
    }
    said = []
    for quantity in QUANTITIES:
        far = {label: ratio for label, ratio in ratios[quantity].items() if abs(ratio) > SMALL}
        if quantity in settled or not far:
            continue
        them = listed(f"{label!r} ({units.percent(ratio)})" for label, ratio in far.items())
        keys = _hidden([arm for arm in arms if arm.label in far])
        line = f"; `match: {{quantity: {quantity}, vary: {keys}}}` makes it equal" if keys else ""
        if quantity != PARAMETERS and all(abs(ratios[PARAMETERS][label]) <= SMALL for label in far):
            line = ", as part of what they vary: their parameters are equal"
        said.append(f"not matched in {title(quantity)} to {first!r}: {them}{line}")
    return said


def _asked(spec: StudySpec) -> set[str]:
    """The costs that a study asks about: those of its claims, of its search and of its figures."""
    named = [*(claim.get("metric", "") for claim in spec.claims.values()), *(spec.search.objectives if spec.search else ())]
    named += spec.figures.x or ()
    return {canonical(name) for name in named}


def _hidden(arms: Sequence[Arm]) -> str:
    """The hidden widths of the layers that these arms use and do not change, as `vary` takes them; empty if they have none."""
    names = dict.fromkeys(name for arm in arms for name in arm.spec.model.layer_blocks())
    changed = {key for arm in arms for key in arm.changes}
    keys = [
        key
        for name in names
        if (key := f"model.blocks.{name}.ffn.hidden") not in changed
        and any("hidden" in (arm.spec.model.blocks[name].ffn or {}) for arm in arms if name in arm.spec.model.blocks)
    ]
    return keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]" if keys else ""
