"""`match`: solved values make a cost equal, no neighbour would be nearer, and what cannot be matched says how close it came."""

import copy
import json
import random
from dataclasses import replace

import pytest

from arch import cost, document, units
from arch.errors import SpecError
from arch.model import Model
from arch.spec import digest
from experiments import plan as experiment
from sweeps import matching, show, study, unmatched
from sweeps.arms import Family
from sweeps.costs import cost_metric
from sweeps.nearest_whole import nearest
from sweeps.spec import arm_document, split

# Arms of one family: global and local attention, grouped and single key heads, a recurrence, and hybrids.
ARMS = {
    "griffin": {},
    "global": {"model.pattern": ["global"]},
    "grouped": {"model.pattern": ["local", "global"], "model.blocks.local.mixer.kv_heads": 3},
    "recurrent": {"model.pattern": ["recurrent"]},
    "deep": {"model.layers": 8, "model.pattern": ["3*local", "global"]},
    "wide state": {"model.blocks.recurrent.mixer.width": 256},
    "faster": {"optimizer.lr": 1e-2},
}
FEWER = ("griffin", "recurrent", "deep", "wide state")
HIDDEN, WIDTH, WINDOW = "model.blocks.recurrent.ffn.hidden", "model.blocks.recurrent.mixer.width", "model.blocks.local.mixer.window"


def root_of(match, arms=None, **more):
    """A study of these arms on the shipped tiny_griffin."""
    data = {**document.load("tiny_griffin", "experiments").plain(), "question": "Is it?", "arms": arms or ARMS}
    return document.node({**data, **({"match": match} if match else {}), **more})


def solved(match, arms=None, scale=None, **more):
    """({arm: resolved ExperimentSpec}, {arm: MatchRecord}) of a study with this `match`."""
    spec, node, found = matching.matched(*split(root_of(match, arms, **more), scale))
    base = split(root_of(match, arms, **more), scale)[2]
    return {label: experiment.resolve(arm_document(node, base, label)) for label in spec.arms}, {each.arm: each for each in found}


def costed(spec, quantity):
    """A cost by the cost model, of which tests/arch/test_cost.py holds every number against a real model."""
    return cost_metric(quantity, spec, cost.outline(spec.model, spec.data.context))


def with_value(match, label, values, arms=None):
    """The resolved spec of an arm in which the values of some keys are written by hand; None if it cannot be."""
    data = root_of(match, arms).plain()
    data["arms"] = {name: {**changes, **(values if name == label else {})} for name, changes in data["arms"].items()}
    _, node, base = split(document.node({key: value for key, value in data.items() if key != "match"}))
    try:
        return experiment.resolve(arm_document(node, base, label))
    except SpecError:
        return None


QUANTITIES = [
    ("cost/parameters", HIDDEN, 8),
    ("cost/non_embedding", HIDDEN, 8),
    ("cost/flops", HIDDEN, 4),
    ("cost/decode_bytes@8192", {"recurrent": HIDDEN, "wide state": HIDDEN}, 8),
    ("cost/cache_bytes@4096", {"deep": WINDOW}, 1),
    ("cost/state_bytes", {"recurrent": WIDTH}, 4),
]


@pytest.mark.parametrize(("quantity", "vary", "multiple"), QUANTITIES)
def test_the_solved_arm_is_within_tolerance_and_no_neighbour_is_nearer(quantity, vary, multiple):
    tolerance = 0.02 if multiple == 8 else 0.01
    target = {"cost/cache_bytes@4096": 7_000_000, "cost/state_bytes": 30_000}.get(quantity, "griffin")
    match = {"quantity": quantity, "vary": vary, "to": target, "tolerance": tolerance, "multiple_of": multiple}
    arms = ARMS if quantity == "cost/parameters" else {label: ARMS[label] for label in FEWER}
    specs, records = solved(match, arms)
    goal = costed(specs["griffin"], quantity) if isinstance(match["to"], str) else target
    moved = [record for record in records.values() if record.values]
    assert len(moved) == (len(vary) if isinstance(vary, dict) else len(arms) - 2 + ("faster" not in arms))
    for record in moved:
        assert record.value == costed(specs[record.arm], quantity) and record.target == goal
        assert record.residual == pytest.approx(record.value / goal - 1) and abs(record.residual) <= tolerance
        (key, value), *rest = record.values.items()
        assert not rest and value % multiple == 0
        for other in (value - multiple, value + multiple):
            beside = with_value(match, record.arm, {key: other}, arms)
            assert beside is None or abs(costed(beside, quantity) - goal) >= abs(record.value - goal)
    if quantity == "cost/parameters":
        for label, spec in specs.items():
            assert sum(weight.numel() for weight in Model(spec.model).parameters()) == costed(spec, quantity), label


def test_values_are_plain_overrides_of_the_arm():
    """The identity of a matched arm is that of an arm in which somebody wrote the value; equal arms and the target stay."""
    match = {"quantity": "cost/parameters", "vary": HIDDEN, "to": "griffin", "multiple_of": 4}
    specs, records = solved(match)
    value = records["global"].values[HIDDEN]
    assert digest(specs["global"]) == digest(with_value(match, "global", {HIDDEN: value}))
    assert specs["global"].model.blocks["global"].ffn["hidden"] == value  # by `like`
    assert "griffin" not in records and records["faster"].values == {} and records["faster"].residual == 0
    assert specs["faster"].model == specs["griffin"].model


def test_several_keys_keep_their_ratio():
    arms = {"small": {}, "large": {"model.layers": 3, "model.pattern": ["local"]}}
    keys = ["model.dim", "model.blocks.local.mixer.heads", HIDDEN]
    multiples = {"model.dim": 32, "model.blocks.local.mixer.heads": 1, HIDDEN: 8}
    match = {"quantity": "cost/parameters", "vary": keys, "multiple_of": multiples, "tolerance": 0.1}
    specs, records = solved(match, arms)
    values = records["large"].values
    assert set(values) == set(keys) and values["model.dim"] > 96
    assert values["model.dim"] / values[keys[1]] == pytest.approx(32, rel=0.2)
    assert values[HIDDEN] / values["model.dim"] == pytest.approx(3, rel=0.2)
    assert specs["large"].model.dim == values["model.dim"] and abs(records["large"].residual) <= 0.1


def test_a_number_matches_every_arm_and_a_scale_may_change_it():
    match = {"quantity": "cost/parameters", "vary": HIDDEN, "to": 700_000, "tolerance": 0.02}
    arms = {label: ARMS[label] for label in ("griffin", "global")}
    _, records = solved(match, arms)
    assert list(records) == ["griffin", "global"] and all(each.to == "" and each.values for each in records.values())
    _, records = solved(match, arms, "more", scales={"more": {"match.to": 900_000}})
    assert all(abs(each.value - 900_000) < 18_000 for each in records.values())


def test_each_arm_may_have_keys_of_its_own_and_the_others_stay():
    vary = {"global": HIDDEN, "recurrent": WIDTH}
    specs, records = solved({"quantity": "cost/parameters", "vary": vary, "to": "griffin", "multiple_of": 4})
    assert set(records["global"].values) == {HIDDEN} and set(records["recurrent"].values) == {WIDTH}
    assert records["deep"].varies == () and records["deep"].values == {} and records["deep"].residual > 0.1
    assert "it is not varied" in records["deep"].words
    assert specs["deep"] == with_value({"quantity": "cost/parameters", "vary": HIDDEN}, "deep", {})


def test_on_a_ladder_each_size_is_matched_to_the_arm_of_its_size():
    sizes = {"s": {"model.layers": 3}, "m": {"model.layers": 6}}
    arms = {label: ARMS[label] for label in ("griffin", "global")}
    match = {"quantity": "cost/parameters", "vary": {"global": HIDDEN}, "to": "griffin", "multiple_of": 4}
    specs, records = solved(match, arms, ladder={"sizes": sizes})
    assert {label: each.to for label, each in records.items()} == {"global s": "griffin s", "global m": "griffin m"}
    for size in sizes:
        assert costed(specs[f"global {size}"], "cost/parameters") == records[f"global {size}"].value
        assert records[f"global {size}"].target == costed(specs[f"griffin {size}"], "cost/parameters")


def test_what_nothing_makes_equal_is_named_with_the_line_that_would():
    root = root_of(None, {label: ARMS[label] for label in ("griffin", "global", "faster")})
    spec, node, base = split(root)
    family = Family(spec, node, base)
    arms = [family.arm(label) for label in spec.arms]
    costs = {arm.label: {name: costed(arm.spec, name) for name in unmatched.QUANTITIES} for arm in arms}
    parameters, flops = unmatched.hints(spec, arms, costs)
    ratio = costs["global"]["cost/parameters"] / costs["griffin"]["cost/parameters"] - 1
    assert parameters == (
        f"not matched in parameters to 'griffin': 'global' ({units.percent(ratio)}); "
        "`match: {quantity: cost/parameters, vary: model.blocks.global.ffn.hidden}` makes it equal"
    )
    assert "training FLOPs per token" in flops and "'faster'" not in parameters + flops
    asked = {"quality": {"type": "equivalent", "known_worse": ["global"]}}  # a control is meant to be another
    assert unmatched.hints(spec.model_copy(update={"claims": asked}), arms, costs) == []
    asked = {"quality": {"type": "equivalent"}, "size": {"type": "better", "metric": "cost/parameters", "arm": "global"}}
    (one,) = unmatched.hints(spec.model_copy(update={"claims": asked}), arms, costs)
    assert "FLOPs" in one, "a cost that the study asks about is not to be made equal"
    wider = [replace(arm, changes={"model.blocks.global.ffn.hidden": (1, 2)}) for arm in arms]
    assert all("`match" not in said for said in unmatched.hints(spec, wider, costs)), "what arms vary is not undone"
    same = {label: {**each, "cost/parameters": 1.0} for label, each in costs.items()}
    (one,) = unmatched.hints(spec, arms, same)
    assert one.endswith("as part of what they vary: their parameters are equal") and "`match" not in one
    match = {"quantity": "cost/parameters", "vary": "model.blocks.global.ffn.hidden", "multiple_of": 4}
    spec, _, _ = split(root_of(match, spec.arms))  # the line that was said
    assert len(unmatched.hints(spec, arms, costs)) == 1
    assert abs(solved(match, {label: ARMS[label] for label in ("griffin", "global")})[1]["global"].residual) < 0.005


def test_two_costs_are_made_equal_at_once():
    match = [
        {"quantity": "cost/state_bytes", "vary": {"recurrent": WIDTH}, "to": "griffin", "multiple_of": 4, "tolerance": 0.02},
        {"quantity": "cost/parameters", "vary": {"recurrent": HIDDEN}, "to": "griffin", "multiple_of": 4},
    ]
    specs, _ = solved(match)
    for each in match:
        goal = costed(specs["griffin"], each["quantity"])
        assert costed(specs["recurrent"], each["quantity"]) == pytest.approx(goal, rel=each.get("tolerance", 0.005))


KV_HEADS = "model.blocks.local.mixer.kv_heads"
ERRORS = {
    "unknown quantity": ({"quantity": "cost/parameter"}, ("match", "quantity"), "'cost/parameter'; did you mean 'cost/parameters'"),
    "no such arm": ({"to": "grifin"}, ("match", "to"), "no arm 'grifin'; did you mean 'griffin'"),
    "no such arm to vary": ({"vary": {"globl": HIDDEN}}, ("match", "vary", "globl"), "no arm 'globl'; did you mean 'global'"),
    "the target varies": ({"vary": {"griffin": HIDDEN}}, ("match", "vary", "griffin"), "is matched to nothing"),
    "no such key": ({"vary": f"{HIDDEN}s"}, ("match", "vary"), f"no arm has the key '{HIDDEN}s'; did you mean '{HIDDEN}'"),
    "no whole number": ({"vary": "model.embed_scale"}, ("match", "vary"), "model.embed_scale is 'none' in arm 'global'"),
    "no number yet": ({"vary": {"windowless": "model.blocks.global.mixer.window"}}, ("match", "vary"),
                      "model.blocks.global.mixer.window is null in arm 'windowless'; expected a whole number"),
    "unused in an arm": ({"vary": WIDTH}, ("match", "vary"), f"arm 'global' has no layer with {WIDTH}; give each arm its own"),
    "level": ({"quantity": "cost/state_bytes", "vary": {"recurrent": HIDDEN}}, ("match",), "does not change with"),
    "nothing there": ({"quantity": "cost/state_bytes", "to": "global", "vary": {"recurrent": WIDTH}}, (), "has 0 cost/state_bytes"),
    "no admissible value": ({"vary": {"global": KV_HEADS}, "multiple_of": 2}, ("match", "multiple_of"),
                            f"no multiple of 2 near 1 works for {KV_HEADS}: {KV_HEADS}: 2 does"),
    "unknown multiple": ({"multiple_of": {"model.dim": 8}}, ("match", "multiple_of", "model.dim"), "'model.dim' is not varied"),
    "a percentage": ({"tolerance": "1 %"}, ("match", "tolerance"), "for 1 % write 0.01"),
    "beyond exact numbers": ({"to": 1e30}, ("match", "to"), "less than or equal to 9007199254740992"),
    "varied twice": ([{}, {"quantity": "cost/flops"}], ("match", 1, "vary"), "another match varies"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_refused_at_its_key(name):
    change, path, text = ERRORS[name]
    whole = {"quantity": "cost/parameters", "vary": HIDDEN, "to": "griffin"}
    match = [{**whole, **each} for each in change] if isinstance(change, list) else {**whole, **change}
    arms = {label: ARMS[label] for label in ("griffin", "global", "recurrent")} | {"windowless": {"model.pattern": ["global"]}}
    arms = {"global": arms.pop("global"), **arms} if name == "no whole number" else arms
    with pytest.raises(SpecError) as caught:
        solved(match, arms)
    assert caught.value.path == path and text in str(caught.value)


def test_an_arm_that_cannot_be_matched_says_how_close_it_came(tmp_path):
    match = {"quantity": "cost/parameters", "vary": HIDDEN, "to": "griffin", "multiple_of": 8}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(root_of(match, {label: ARMS[label] for label in ("griffin", "global")}).plain(), indent=1))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if '"match"' in text)
    with pytest.raises(SpecError) as caught:
        study.check(document.load(str(path), "sweeps"))
    assert str(caught.value).endswith(
        f"study.yaml:{line}: match: arm 'global' cannot be matched: no value of {HIDDEN} gives cost/parameters within 0.5 % of "
        "832,096 of 'griffin'; hidden = 336 gives 827,616 (-0.54 %), hidden = 344 gives 841,440 (+1.12 %)"
    )
    with pytest.raises(SpecError, match=r"hidden = 8 gives [\d,]+ \(\+\d"):  # every value is too large
        solved({**match, "to": 200_000}, {"global": {"model.pattern": ["global"]}})


def test_an_arm_that_writes_the_key_itself_is_refused_at_its_line():
    arms = {"griffin": {}, "mine": {"model.pattern": ["global"], HIDDEN: 400}}
    with pytest.raises(
        SpecError, match=r"`match` solves .* but the arm overrides it; leave it out, or name the other arms"
    ) as caught:
        solved({"quantity": "cost/parameters", "vary": HIDDEN}, arms)
    assert caught.value.path == (HIDDEN,)
    # A whole component is where the search starts.
    arms["mine"] = {"model.pattern": ["global"], "model.blocks.global.ffn": {"type": "gated", "hidden": 24}}
    match = {"quantity": "cost/parameters", "vary": "model.blocks.global.ffn.hidden", "multiple_of": 4}
    assert solved(match, arms)[1]["mine"].values == {"model.blocks.global.ffn.hidden": 340}


@pytest.mark.parametrize(
    ("key", "span", "text"),
    [
        (HIDDEN, {"low": 200, "high": 400}, "`match` solves this key"),
        ("model.layers", {"low": 3, "high": 6, "points": 2}, "cost/parameters of arm 'global' changes with it"),
        ("optimizer.lr", {"low": 1e-3, "high": 1e-2}, None),
    ],
)
def test_tuning_may_not_change_what_is_matched(key, span, text):
    match = {"quantity": "cost/parameters", "vary": HIDDEN, "to": "griffin", "multiple_of": 4}
    root = root_of(match, {label: ARMS[label] for label in ("griffin", "global")}, tune={"space": {key: span}})
    spec, node, found = matching.matched(*split(root))
    family = Family(spec, node, split(root)[2], found)
    arms = [family.arm(label) for label in spec.arms]
    if text is None:
        matching.check_tuned(node, spec, found, arms)
        return
    with pytest.raises(SpecError) as caught:
        matching.check_tuned(node, spec, found, arms)
    assert text in str(caught.value) and caught.value.path == ("tune", "space", key)


LOCAL = "model.blocks.local.ffn.hidden"


def to_first(study_data):
    """The tiny study with a match to its first arm."""
    match = {"quantity": "cost/parameters", "vary": LOCAL, "multiple_of": 1, "tolerance": 0.01}
    return {**copy.deepcopy(study_data), "match": match}


def test_the_record_keeps_what_was_solved(plan_study, study_data):
    (match,) = plan_study(to_first(study_data)).record().matched
    assert match.arm == "all local" and match.to == "1:1" and match.values[LOCAL] != 24
    assert type(match).parse(json.loads(json.dumps(match.dump()))) == match


def test_the_preview_says_what_was_solved(study_data, console):
    spec, arms = study.check(document.node(to_first(study_data)))
    ((match,),) = (arm.matched for arm in arms[1:])
    assert spec.arms["all local"][LOCAL] == arms[1].spec.model.blocks["local"].ffn["hidden"] == match.values[LOCAL]
    show.printed(json.loads(json.dumps(show.preview("asked", None, spec, arms))), console)
    said = console.file.getvalue()
    assert f"matched: {LOCAL} = {match.values[LOCAL]} makes cost/parameters {match.value:,.0f}, " in said
    assert f"{LOCAL}: 24 -> {match.values[LOCAL]}" in said


def test_the_nearest_whole_number_is_found_in_few_steps():
    """Against a search of every number, for functions that rise or fall, with holes and level stretches."""
    draw = random.Random(0)
    for _ in range(150):
        rising, hole, flat = draw.random() < 0.5, draw.choice([1, 1, 2, 3, 12]), draw.choice([0, 0, 400])
        slope, zero, start, tried = draw.uniform(0.5, 90), draw.randint(1, 3000), draw.randint(1, 900), []

        def gap(number, rising=rising, hole=hole, flat=flat, slope=slope, zero=zero, tried=tried):
            tried.append(number)
            value = slope * (min(number, flat) if flat else number) - slope * zero + 0.3
            return None if number % hole else value if rising else -value

        found = nearest(gap, start)
        asked = len(tried)
        values = {number: gap(number) for number in range(1, 4096)}
        least = min(abs(value) for value in values.values() if value is not None)
        if found.moves:
            assert abs(values[found.best]) == pytest.approx(least), (found, start, zero, hole, flat)
        else:
            assert flat and start > flat
        assert asked < 60 * hole
