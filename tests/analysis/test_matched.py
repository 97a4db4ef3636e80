"""The results table shows what `match` and `budget` gave each arm."""

from analysis import matched
from arch import units
from sweeps.record import BudgetRecord, MatchRecord


def match(arm, values, residual=0.0004, quantity="cost/parameters"):
    about = {"to": "griffin", "target": 1e5, "tolerance": 0.005, "varies": ["model.blocks.local.ffn.hidden"]}
    return MatchRecord(arm=arm, quantity=quantity, values=values, value=1e5 * (1 + residual), residual=residual, **about)


def test_a_matched_arm_has_its_values_and_its_residual():
    found = [match("global", {"model.blocks.local.ffn.hidden": 184}), match("faster", {}, 0.0)]
    cells = {arm: matched.readable(found, [], arm) for arm in ("griffin", "global", "faster")}
    assert cells["global"] == {"matched parameters": f"ffn.hidden 184 ({units.percent(0.0004)})"}
    assert cells["faster"] == {"matched parameters": f"as written ({units.percent(0.0)})"}
    assert cells["griffin"] == {"matched parameters": units.DASH}


def test_a_budget_has_its_steps_and_each_cost_its_column():
    spent = BudgetRecord(arm="global", kind="flops", amount=100.0, to="", steps=1412, spent=99.0, residual=-0.01)
    found = [match("global", {"model.layers": 3}), match("global", {"model.dim": 64}, quantity="cost/state_bytes")]
    assert matched.readable(found, [spent], "global") == {
        "matched parameters": f"model.layers 3 ({units.percent(0.0004)})",
        "matched constant state": f"model.dim 64 ({units.percent(0.0004)})",
        "budget of flops": f"1,412 steps ({units.percent(-0.01)})",
    }
    assert matched.readable([], [], "global") == {}
