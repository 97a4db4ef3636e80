"""`ladder:` runs every arm at every size, with the same tokens and a scaled rate within a size."""

import pytest

from arch import document
from arch.errors import SpecError
from arch.model import Model
from experiments.plan import resolve
from sweeps import ladder, show, study
from sweeps.judge import questions
from sweeps.ladder import LadderSpec, rungs
from sweeps.spec import arm_document, split

SIZES = {
    "s": {"model.dim": 16, "model.blocks.local.ffn.hidden": 32},
    "m": {"model.dim": 32, "model.blocks.local.ffn.hidden": 64},
    "l": {"model.dim": 64, "model.blocks.local.ffn.hidden": 128},
}

# The parameters of the embedding and of the head.
ENDS = ("embedding", "head.weight")


@pytest.fixture
def laddered(tiny):
    """laddered(**ladder) gives a study as plain data, with two arms at three sizes."""

    def made(arms=None, claims=None, **options):
        arms = {"1:1": {}, "all local": {"model.pattern": ["local"]}} if arms is None else arms
        claims = {"claims": claims} if claims else {}
        tiny["model"] |= {"layers": 2, "pattern": ["local", "global"]}
        return {**tiny, "question": "Is it?", "arms": arms, "seeds": 3, "ladder": {"sizes": SIZES} | options, **claims}

    return made


def test_every_arm_at_every_size_is_compared_with_the_first_of_its_size(laddered):
    claims = {"quality": {"type": "equivalent"}, "law": {"type": "power_law", "than_first": "same"}}
    spec, _, _ = split(laddered(claims=claims))
    assert list(spec.arms) == [f"{arm} {size}" for size in SIZES for arm in ("1:1", "all local")]
    asked = questions(spec.claims, spec.arms)
    assert [each.arms for each in asked["quality"]] == [(f"1:1 {size}", f"all local {size}") for size in SIZES]
    assert spec.claims["law"]["groups"] == {arm: [f"{arm} {size}" for size in SIZES] for arm in ("1:1", "all local")}
    assert [each.subject for each in asked["law"]] == ["all local against 1:1"]


def test_pairs_and_controls_without_a_size_stand_for_every_size(laddered):
    claims = {"quality": {"type": "equivalent", "known_worse": ["bad"]}}
    data = laddered(arms={"a": {}, "b": {"model.layers": 1}, "bad": {"model.layers": 2}}, claims=claims)
    spec, _, _ = split(data)
    assert spec.claims["quality"]["known_worse"] == [f"bad {size}" for size in SIZES]
    assert [each.subject for each in questions(spec.claims, spec.arms)["quality"]] == [f"b {s} against a {s}" for s in SIZES]
    spec, _, _ = split(data | {"compare": [["b", "bad"]], "claims": {"q": {"type": "better"}}})
    assert [each.subject for each in questions(spec.claims, spec.arms)["q"]] == [f"bad {s} against b {s}" for s in SIZES]


def test_factors_are_compared_within_each_size(laddered):
    grid = {
        "W": {"2": {"model.blocks.local.mixer.window": 2}, "4": {}},
        "norm": {"a": {}, "b": {"model.blocks.local.norm": "sandwich"}},
    }
    spec, _, _ = split(laddered(arms={}) | {"grid": grid, "compare": "factors"})
    asked = questions(spec.claims, spec.arms)["quality"]
    assert len(asked) == 9 and all(len({label.rpartition(" ")[2] for label in each.arms}) == 1 for each in asked)


def solved(data):
    """(spec, {label: resolved experiment}) of a study whose ladder is solved, without running a model."""
    spec, written, base = split(data)
    written = ladder.solved(spec, written, base)
    return written, {label: resolve(arm_document(written, base, label)) for label in spec.arms}


def test_tokens_and_rates_follow_the_rule_and_are_the_same_in_a_size(laddered):
    """Steps are tokens_per_parameter x parameters without embeddings, of the size's first arm, rounded to whole steps."""
    arms = {"1:1": {}, "small": {"model.layers": 1}}
    written, by_label = solved(laddered(arms=arms, tokens_per_parameter=20, scale_lr="inverse_sqrt_width"))
    first = by_label["1:1 s"]
    for size, width in zip(SIZES, (16, 32, 64), strict=True):
        one, other = by_label[f"1:1 {size}"], by_label[f"small {size}"]
        tokens = 20 * ladder.non_embedding(one)
        assert abs(one.tokens - tokens) <= one.data.rows * one.data.context / 2 and one.train.steps == other.train.steps
        assert one.optimizer["lr"] == pytest.approx(first.optimizer["lr"] * (16 / width) ** 0.5)
        assert one.optimizer["lr"] == other.optimizer["lr"]
        # Stored as overrides: the study's record is that of plain arms.
        assert written.at(("arms", f"1:1 {size}", "train.steps")).value == one.train.steps
    assert "optimizer.lr" not in written.value["arms"].value["1:1 s"].value, "the first size has the rate as written"


def test_a_rule_of_ones_own_by_parameters(laddered):
    rule = {"power": -0.25, "of": "parameters"}
    _, specs = solved(laddered(arms={"1:1": {}}, scale_lr=rule))
    sizes = {label: ladder.non_embedding(spec) for label, spec in specs.items()}
    rates = {label: spec.optimizer["lr"] for label, spec in specs.items()}
    assert rates["1:1 l"] / rates["1:1 s"] == pytest.approx((sizes["1:1 l"] / sizes["1:1 s"]) ** -0.25)
    assert [each.width for each in rungs(LadderSpec(sizes=SIZES, scale_lr=rule), specs, sizes)] == [16, 32, 64]


def test_show_prints_what_was_solved(laddered):
    two = dict(list(SIZES.items())[:2])
    spec, arms = study.check(document.node(laddered(arms={"1:1": {}}, sizes=two, tokens_per_parameter=1, scale_lr="inverse_width")))
    lines = show.preview("asked", None, spec, arms)["ladder"]
    rate = arms[0].spec.optimizer["lr"]
    steps = [arm.spec.train.steps for arm in arms]
    for arm in arms:
        weights = dict(Model(arm.spec.model).named_parameters())
        assert ladder.non_embedding(arm.spec) == sum(weights[name].numel() for name in weights if name not in ENDS)
    for line, size, width, count, factor in zip(lines, two, (16, 32), steps, (1, 2), strict=True):
        assert line.startswith(f"{size}: width {width}, ") and f" {count:,} steps = " in line
        assert line.endswith(f"(1 per parameter), learning rate {rate / factor:.3g} (width ** -1)")


def test_arms_of_different_width_that_share_a_rate_are_remarked(laddered):
    def said(data):
        return ladder.remarks(split(data)[0], solved(data)[1])

    assert said(laddered())[0].startswith("arms differ in width (model.dim 16, 32 and 64) and share a learning rate")
    assert not said(laddered(scale_lr="inverse_width"))
    plain = {key: value for key, value in laddered().items() if key != "ladder"}
    wide = plain | {"arms": {"1:1": {}, "wide": {"model.dim": 64}}}
    assert said(wide) and not said(plain)
    assert not said(wide | {"tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2, "points": 2}}}})
    assert not said(plain | {"arms": {"1:1": {}, "wide": {"model.dim": 64, "optimizer.lr": 5e-4}}}), "its own rate"


def test_a_budget_and_tokens_per_parameter_exclude_each_other(laddered):
    with pytest.raises(SpecError, match="`budget` computes train"):
        solved(laddered(tokens_per_parameter=1) | {"budget": {"tokens": 4096}})


BAD = {
    "sizes that are a list": ({"sizes": ["s", "m"]}, "ladder.sizes: expected a mapping of sizes"),
    "no sizes": ({"sizes": {}}, "ladder.sizes: no size; a ladder needs two sizes"),
    "one size": ({"sizes": {"s": {}}}, "ladder.sizes: only 's'; a ladder needs two sizes"),
    "a size that is no mapping": ({"sizes": {"s": 3, "m": {}}}, "ladder.sizes.s: expected a mapping of dotted keys"),
    "an unknown rule": (
        {"scale_lr": "inverse_widht"},
        "ladder.scale_lr: 'inverse_widht' is not one of them; did you mean 'inverse_width'",
    ),
    "a rule of an unknown size": ({"scale_lr": {"power": -1.0, "of": "depth"}}, "ladder.scale_lr.of: 'depth' is not one of them"),
    "a misspelt key": ({"token_per_parameter": 20}, "ladder.token_per_parameter: unknown key; did you mean 'tokens_per_parameter'"),
    "two rates": (
        {"sizes": {"s": {"optimizer.lr": 1e-3}, "m": {}}, "scale_lr": "inverse_width"},
        "ladder.sizes.s.optimizer.lr: `scale_lr` computes",
    ),
    "two budgets": (
        {"sizes": {"s": {"train.steps": 3}, "m": {}}, "tokens_per_parameter": 1},
        "ladder.sizes.s.train.steps: `tokens_per_parameter` computes",
    ),
    "a size against an arm": ({"sizes": {"s": {"model.pattern": ["local"]}, "m": {}}}, "ladder.sizes.s: arm"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD.keys())
def test_mistakes_are_one_line(laddered, options, message):
    with pytest.raises(SpecError) as caught:
        split(laddered(**options))
    if message == "ladder.sizes.s: arm":
        assert "ladder.sizes.s: size 's' overrides model.pattern, and so does arm 'all local'" in str(caught.value)
    else:
        assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_budget_below_one_step_says_what_it_gives(laddered):
    with pytest.raises(
        SpecError, match=r"0.001 x [\d,]+ parameters without embeddings is \d+ tokens for size 's', less than one step"
    ):
        study.check(document.node(laddered(tokens_per_parameter=0.001)))


def test_a_sized_arm_that_is_none_is_refused(laddered):
    with pytest.raises(SpecError, match="no arm '1:2'; did you mean '1:1'"):
        split(laddered(arms={"1:1": {}, "1:2 s": None}))
    dropped, _, _ = split(laddered(arms={"1:1": {}, "x": {}, "x l": None, "x m": {"train.steps": 3}}))
    assert "x l" not in dropped.arms and dropped.arms["x m"] == {**SIZES["m"], "train.steps": 3}
