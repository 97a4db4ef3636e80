"""What `match` and `budget` gave each arm of a study, as columns of the results table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arch import units
from experiments.metrics import title
from sweeps.record import BudgetRecord, MatchRecord

if TYPE_CHECKING:
    from analysis.study import Study

PER_LINE = 2  # so many last parts of a dotted key are shown


def raw(study: Study, arm: str) -> dict[str, Any]:
    """{column: value} of an arm: per matched cost the solved values and the residual, and the steps of its budget.

    Every arm has the same columns; None where there is nothing to say, as of the arm that the others are matched to.
    """
    columns: dict[str, Any] = {}
    for quantity in dict.fromkeys(each.quantity for each in study.record.matched):
        own = _of(study.record.matched, arm, quantity)
        name = quantity.replace("/", "_")
        columns[f"matched_{name}"] = _values(own.values) if own else None
        columns[f"matched_{name}_residual"] = own.residual if own else None
    if study.record.budget:
        spent = next((each for each in study.record.budget if each.arm == arm), None)
        columns |= {"budget_steps": spent and spent.steps, "budget_residual": spent and spent.residual}
    return columns


def readable(record_matched: list[MatchRecord], record_budget: list[BudgetRecord], arm: str) -> dict[str, str]:
    """{heading: cell} of an arm: `ffn.hidden 184 (+0.04 %)`, `412 steps (-0.10 %)`; a dash for the arm that is matched to."""
    cells = {}
    for quantity in dict.fromkeys(each.quantity for each in record_matched):
        own = _of(record_matched, arm, quantity)
        cells[f"matched {title(quantity)}"] = f"{_said(own)} ({units.percent(own.residual)})" if own else units.DASH
    if record_budget:
        spent = next((each for each in record_budget if each.arm == arm), None)
        cells[f"budget of {record_budget[0].kind}"] = (
            f"{spent.steps:,} steps ({units.percent(spent.residual)})" if spent else units.DASH
        )
    return cells


def _of(matched: list[MatchRecord], arm: str, quantity: str) -> MatchRecord | None:
    return next((each for each in matched if (each.arm, each.quantity) == (arm, quantity)), None)


def _said(own: MatchRecord) -> str:
    return _values(own.values) or "as written"


def _values(values: dict[str, int]) -> str:
    return ", ".join(f"{'.'.join(key.split('.')[-PER_LINE:])} {value}" for key, value in values.items())
