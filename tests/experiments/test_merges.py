"""Weights of several runs that become one: rules, what identity follows from, and what is refused."""

import math

import pytest
import torch
from safetensors.torch import load_file

from arch import document, registry
from arch.errors import SpecError
from arch.schema import json_schema
from experiments.merges.slerp import between
from experiments.plan import plan, resolve
from experiments.spec import ExperimentSpec
from experiments.train import train


def rule(name, **options):
    return registry.build("merge", {"type": name, **options})


def directions(seed, count=3):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(count)]


def test_slerp_keeps_the_length_of_directions_and_a_mean_does_not():
    first, second, _ = directions(0)
    second = second * (first.norm() / second.norm())
    for part in (0.0, 0.25, 0.5, 1.0):
        assert float(between(first, second, part).norm()) == pytest.approx(float(first.norm()), rel=1e-12)
    assert (0.5 * (first + second)).norm() < 0.9 * first.norm()
    torch.testing.assert_close(between(first, second, 0.0), first)
    torch.testing.assert_close(between(first, second, 1.0), second)
    torch.testing.assert_close(between(first, second, 0.3), between(second, first, 0.7))


def test_slerp_of_right_angles_is_what_the_formula_says():
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    half = torch.full((2,), math.sqrt(0.5))
    torch.testing.assert_close(rule("slerp")("w", [x + 1, y + 1], torch.ones(2)), half + 1)


@pytest.mark.parametrize("second", [2.0, 0.0, 1.0])
def test_directions_without_an_angle_are_interpolated_in_a_line(second):
    first = torch.tensor([3.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(between(first, second * first, 0.5), (1 + second) / 2 * first)


def test_opposite_directions_are_refused():
    with pytest.raises(ValueError, match="opposite directions"):
        between(torch.ones(3), -torch.ones(3), 0.5)


def test_equal_runs_merge_into_themselves():
    start, end, _ = directions(1)
    for made in (rule("mean"), rule("slerp"), rule("mean", weights=(0.2, 0.3, 0.5)), rule("ema", rate=1.0)):
        torch.testing.assert_close(made("w", [end, end, end], start), end)
    torch.testing.assert_close(rule("towards", amount=0.0)("w", [end], start), start)
    torch.testing.assert_close(rule("towards", amount=1.0)("w", [end], start), end)


def test_a_moving_average_is_its_recursion():
    start, one, two = directions(2)
    expected = 0.75 * (0.75 * start + 0.25 * one) + 0.25 * two
    torch.testing.assert_close(rule("ema", rate=0.25)("w", [one, two], start), expected)


@pytest.fixture
def trained(tiny, tmp_path):
    """Folders of three finished runs: two that started from the third."""
    tiny["train"]["steps"], tiny["evaluate"] = 2, {"select": {}, "report": {}}
    folders = {}
    for name, seed, start in (("start", 0, None), ("one", 1, "start"), ("two", 2, "start")):
        spec = tiny if start is None else {**tiny, "init_from": str(folders[start])}
        folders[name] = tmp_path / name
        assert train(plan(spec), seed, folders[name]).status == "finished"
    return {name: str(folder) for name, folder in folders.items()}


def merged(tiny, start):
    return {**tiny, "train": {**tiny["train"], "steps": 0}, "init_from": start}


def test_a_merge_is_the_weights_of_a_run(tiny, trained, tmp_path):
    """slerp seen from the start, whole and a part of the way; the note says what was merged."""
    of = [trained["one"], trained["two"]]
    weights = {name: load_file(f"{folder}/model.safetensors") for name, folder in trained.items()}
    for amount in (1.0, 0.5):
        start = {"merge": {"type": "slerp", "amount": amount}, "of": of, "start": trained["start"]}
        record = train(plan(merged(tiny, start)), 0, tmp_path / f"merged-{amount}")
        assert record.status == "finished", record.failure
        assert record.notes[0].startswith(f"started from the merge slerp of {of[0]}") and "seen from" in record.notes[0]
        for name, found in load_file(tmp_path / f"merged-{amount}" / "model.safetensors").items():
            each = [weights[run][name].double() - weights["start"][name] for run in ("one", "two")]
            expected = weights["start"][name] + amount * between(*each, 0.5)
            torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-7)


def test_identity_is_what_is_merged_and_how(tiny, trained):
    one, two, start = trained["one"], trained["two"], trained["start"]
    identity = lambda given: plan(merged(tiny, given)).identity  # noqa: E731
    listed = identity([one, two])
    assert identity({"merge": "mean", "of": [one, two]}) == identity({"merge": {"type": "mean"}, "of": [one, two]}) == listed
    ways = [
        {"merge": "slerp", "of": [one, two], "start": start},
        {"merge": {"type": "slerp", "amount": 0.5}, "of": [one, two], "start": start},
        {"merge": "slerp", "of": [two, one], "start": start},
        {"merge": "slerp", "of": [one, two], "start": one},
        {"merge": "ema", "of": [one, two], "start": start},
        {"merge": {"type": "mean", "weights": [0.25, 0.75]}, "of": [one, two]},
        {"merge": "towards", "of": [one], "start": start},
    ]
    assert len({listed, identity(one), *map(identity, ways)}) == 2 + len(ways)


@pytest.mark.parametrize(
    "change, path, text",
    [
        ({"merge": "slrp"}, ("init_from", "merge", "type"), "no merge 'slrp'; did you mean 'slerp'?"),
        ({"start": None}, ("init_from", "merge"), "slerp needs the `start` that the runs began from"),
        ({"of": ["one"]}, ("init_from", "of"), "expected at least two runs"),
        ({"of": []}, ("init_from", "of"), "expected at least one"),
        ({"merge": "mean"}, ("init_from", "start"), "does not depend on where its runs started"),
        ({"merge": {"type": "mean", "weights": [0.5]}, "start": None}, ("init_from", "merge", "weights"), "expected 2"),
        ({"merge": {"type": "mean", "weights": [0.5, 0.6]}, "start": None}, ("init_from", "merge", "weights"), "add up to 1"),
        ({"merge": {"type": "slerp", "amont": 1.0}}, ("init_from", "merge", "amont"), "unknown key"),
        ({"merge": "towards"}, ("init_from", "of"), "expected one run, got 2"),
        ({"off": 1}, ("init_from", "off"), "unknown key"),
    ],
)
def test_what_cannot_be_merged_is_refused_at_its_key(change, path, text, tiny, trained):
    given = {"merge": "slerp", "of": ["one", "two"], "start": "start", **change}
    given = {key: value for key, value in given.items() if value is not None}
    for key in ("of", "start"):
        if key in given:
            named = given[key]
            given[key] = [trained[name] for name in named] if isinstance(named, list) else trained[named]
    with pytest.raises(SpecError) as caught:
        plan(merged(tiny, given))
    assert (caught.value.path, text in str(caught.value)) == (path, True), str(caught.value)


def test_a_rule_by_its_name_is_complete_once_resolved_and_known_to_editors(tiny):
    spec = resolve(merged(tiny, {"merge": "slerp", "of": ["a", "b"], "start": "c"}))
    assert spec.init_from.merge == {"type": "slerp", "amount": 1.0}
    assert [key for key, _ in spec.starts] == [("init_from", "of", 0), ("init_from", "of", 1), ("init_from", "start")]
    written = json_schema(ExperimentSpec)["$defs"]["Merge"]["properties"]["merge"]
    assert {"type": "string"} in written["anyOf"]


def test_a_study_merges_its_own_arms(tiny, tmp_path):
    """References inside a merge are runs of the study: they are ordered before it, and removal sees its folders."""
    from sweeps.removal import _named
    from sweeps.study import check

    folder = tmp_path / "a"
    folder.mkdir()
    start = {"merge": {"type": "slerp"}, "of": [str(folder), {"run": str(folder)}], "start": str(folder)}
    assert list(_named(start)) == [folder] * 3
    study = {
        "schema": 1,
        "question": "Is a merge better?",
        **tiny,
        "runs": {"base": {}},
        "arms": {
            "one": {"init_from": {"run": "base"}},
            "two": {"init_from": {"run": "base"}, "optimizer.lr": 1e-3},
            "merged": {"init_from": {"merge": "slerp", "of": [{"run": "one"}, {"run": "two"}], "start": {"run": "base"}}},
        },
        "claims": {"quality": {"type": "equivalent", "margin": 0.01}},
        "seeds": 2,
    }
    _, arms = check(document.node(study), None)
    needs = {arm.label: [(need.label, seed) for need, seed in arm.runs(3)] for arm in arms}
    assert {label for label, _ in needs["merged"]} == {"one", "two", "base"} and all(seed == 3 for _, seed in needs["merged"])
