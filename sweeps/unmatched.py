"""Arms whose cost differs from the baseline's though nothing makes it equal, and the line of `match` that would."""

from collections.abc import Mapping, Sequence

from arch import units
from arch.words import listed
from experiments.metrics import title
from sweeps.arms import Arm
from sweeps.spec import StudySpec

# A difference up to this is not worth a line.
SMALL = 0.01
QUANTITIES = ("cost/parameters", "cost/flops_per_token")


def hints(spec: StudySpec, arms: Sequence[Arm], costs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence per cost that no `match` or `budget` makes equal and in which arms differ from the first of their size.

    costs: {label: {one of QUANTITIES: value}}.
    """
    settled = {match.quantity for _, match in spec.matches}
    if spec.budget and spec.budget.kind == "flops":
        settled.add("cost/flops_per_token")
    first = spec.without_size(next(iter(spec.arms)))
    said = []
    for quantity in QUANTITIES:
        if quantity in settled:
            continue
        ratios = {label: costs[label][quantity] / costs[spec.beside(first, label)][quantity] - 1 for label in costs}
        far = {label: ratio for label, ratio in ratios.items() if abs(ratio) > SMALL}
        if not far:
            continue
        them = listed(f"{label!r} ({units.percent(ratio)})" for label, ratio in far.items())
        keys = _hidden([arm for arm in arms if arm.label in far])
        line = f"; `match: {{quantity: {quantity}, vary: {keys}}}` makes it equal" if keys else ""
        said.append(f"not matched in {title(quantity)} to {first!r}: {them}{line}")
    return said


def _hidden(arms: Sequence[Arm]) -> str:
    """The hidden widths of the layers that these arms use, as `vary` takes them; empty if they have none."""
    names = dict.fromkeys(name for arm in arms for name in arm.spec.model.layer_blocks())
    keys = [
        f"model.blocks.{name}.ffn.hidden"
        for name in names
        if any("hidden" in (arm.spec.model.blocks[name].ffn or {}) for arm in arms if name in arm.spec.model.blocks)
    ]
    return keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]" if keys else ""
