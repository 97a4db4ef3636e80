"""A contrast is one number per seed. Its level holds where nothing differs, and what is planted is found, with its sign."""

import numpy as np
import pytest

from arch.contracts import UNDECIDED, Evidence, Measured
from arch.errors import SpecError
from experiments.metrics import NEXT_TOKEN
from sweeps import contrasts, paired
from sweeps.claims.better import Better
from sweeps.claims.equivalent import BETTER, SAME, WORSE, Equivalent
from sweeps.claims.not_worse import NotWorse
from sweeps.claims.power_law import PowerLaw
from sweeps.judge import built, questions
from sweeps.paired import CONTRADICTED, SUPPORTED
from sweeps.simulation.study import Scenario, outcome
from sweeps.simulation.study import drawn as simulated

GRID = {"W": ["4", "16", "64"], "cap": ["off", "on"]}
CELLS = contrasts.cells(GRID)
FACTORS = contrasts.factorial(GRID, CELLS)
METRIC = NEXT_TOKEN["loss"]


def drawn(random, effects, seeds=5, spread=0.005):
    """The Measured of {arm: nats}: every seed shifts all arms alike."""
    shared = random.normal(4, 0.05, seeds)
    values = {arm: dict(enumerate(shared + effect + random.normal(0, spread, seeds))) for arm, effect in effects.items()}
    return Measured(METRIC, values)


def judged(claim, measured, level):
    """{subject: Verdict} at a level per question."""
    return claim.judge(Evidence({"report/loss": measured}, level, 0.05))


def test_all_against_the_first_is_a_contrast_with_the_same_bits():
    measured = drawn(np.random.default_rng(0), {"a": 0.0, "b": 0.01})
    one, other = measured.values["a"], measured.values["b"]
    sample = paired.weighted(measured, contrasts.against("b", "a").weights)
    assert sample.by_seed == {seed: float(other[seed] - one[seed]) for seed in other}
    named = Equivalent(Equivalent.Config(contrasts=contrasts.pairs([("a", "b")])))
    plain, pair = judged(Equivalent(Equivalent.Config()), measured, 0.05)["b"], judged(named, measured, 0.05)["b against a"]
    assert plain == pair


def test_effects_are_the_means_and_differences_that_they_say():
    """Without noise: main effects of additive cells are exact, interactions of additive cells are zero."""
    window, cap = {"4": 0.0, "16": 0.02, "64": 0.03}, {"off": 0.0, "on": 0.01}
    additive = {arm: window[levels["W"]] + cap[levels["cap"]] for arm, levels in CELLS.items()}
    measured = drawn(np.random.default_rng(1), additive, spread=0.0)
    means = {subject: paired.weighted(measured, each.weights).mean for subject, each in FACTORS.items()}
    expected = {"W=16": 0.02, "W=64": 0.03, "cap=on": 0.01, "cap=on × W=16": 0.0, "cap=on × W=64": 0.0}
    assert means == pytest.approx(expected, abs=1e-9)


def test_every_contrast_ignores_what_a_seed_does_to_all_arms():
    for each in [
        *FACTORS.values(),
        *contrasts.factorial({**GRID, "x": ["1", "2"]}, contrasts.cells({**GRID, "x": ["1", "2"]})).values(),
    ]:
        assert sum(each.weights.values()) == pytest.approx(0, abs=1e-12)
        positive = sum(weight for weight in each.weights.values() if weight > 0)
        assert positive == pytest.approx(2 if each.at else 1)


def test_without_any_effect_a_word_is_rare():
    """All effects and interactions of a grid together, at their shared level."""
    random, wrong, studies = np.random.default_rng(2), 0, 500
    claim = Equivalent(Equivalent.Config(contrasts=FACTORS))
    for _ in range(studies):
        found = judged(claim, drawn(random, dict.fromkeys(CELLS, 0.0)), 0.05 / len(FACTORS))
        wrong += any(verdict.word in (WORSE, BETTER) for verdict in found.values())
    assert wrong / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_a_planted_interaction_is_found_and_nothing_else():
    random, found = np.random.default_rng(3), []
    effects = {arm: 0.05 if levels == {"W": "64", "cap": "on"} else 0.0 for arm, levels in CELLS.items()} | {"control": 0.2}
    claim = Equivalent(Equivalent.Config(contrasts=FACTORS, known_worse=("control",)))
    for _ in range(20):
        verdicts = judged(claim, drawn(random, effects, spread=0.003), 0.05 / len(FACTORS))
        found.append({subject: verdict.word for subject, verdict in verdicts.items()})
        assert verdicts["control"].against == "W=4 cap=off"
    assert sum(each["cap=on × W=64"] == WORSE for each in found) >= 18
    assert not any(each["cap=on × W=16"] in (WORSE, BETTER) for each in found)
    assert all(each["cap=on"] in (WORSE, "undecided") for each in found), "the mean over W is worse too"


def test_a_control_is_compared_with_the_first_of_its_pair_and_is_no_question():
    pairs = contrasts.pairs([("a s", "b s"), ("a s", "bad s"), ("a l", "b l")])
    claim = Equivalent(Equivalent.Config(contrasts=pairs, known_worse=("bad s",)))
    arms = ["x", "a s", "b s", "bad s", "a l", "b l"]
    assert claim.questions(arms) == {"b s against a s": ("a s", "bad s", "b s"), "b l against a l": ("a l", "a s", "bad s", "b l")}
    effects = {"x": 0.5, "a s": 0.0, "b s": 0.0, "bad s": 0.2, "a l": -0.3, "b l": -0.3}
    verdicts = judged(claim, drawn(np.random.default_rng(4), effects, spread=0.001), 0.025)
    assert {subject: verdict.word for subject, verdict in verdicts.items()} == {
        "b s against a s": SAME,
        "b l against a l": SAME,
        "bad s": WORSE,
    }
    assert verdicts["bad s"].against == "a s"


def test_a_control_that_is_also_compared_gets_seeds_until_that_is_decided():
    """Its own word is final at the first look; the pair that it is part of is read with all seeds."""
    pairs = {name: each.dump() for name, each in contrasts.pairs([("a", "bad"), ("a", "b"), ("b", "bad")]).items()}
    claim = {"type": "equivalent", "metric": "report/loss", "margin": 1e-4, "known_worse": ["bad"], "contrasts": pairs}
    arms, plan = {"a": 0.0, "b": 0.2, "bad": 0.2}, (5, 8)
    scenario = Scenario("t", "c", arms, {"q": claim}, (plan,), {})
    done = outcome(scenario, plan, simulated(scenario, np.random.default_rng(0)))
    assert done.word("bad") == WORSE and done.word("b against a") == WORSE
    assert done.word("bad against b") == UNDECIDED and done.verdict("bad against b").n == 8
    assert done.seeds == {"a": 5, "b": 8, "bad": 8} or done.seeds == {"a": 8, "b": 8, "bad": 8}


def test_one_sided_claims_ask_about_every_comparison():
    effects = {"a": 0.0, "b": -0.05, "c": 0.05}
    measured = drawn(np.random.default_rng(5), effects)
    pairs = contrasts.pairs([("a", "b"), ("a", "c")])
    better = judged(Better(Better.Config(contrasts=pairs)), measured, 0.025)
    assert [each.word for each in better.values()] == [SUPPORTED, CONTRADICTED]
    assert Better(Better.Config(contrasts=pairs)).statement("b against a", better["b against a"], METRIC) == "b is better than a"
    everyone = judged(NotWorse(NotWorse.Config()), measured, 0.025)
    assert {arm: each.word for arm, each in everyone.items()} == {"b": SUPPORTED, "c": CONTRADICTED}
    stated = NotWorse(NotWorse.Config(contrasts=FACTORS)).statement("cap=on × W=64", everyone["b"], METRIC)
    assert stated == "the effect of cap=on is not worse at W=64 than at W=4 by 1\N{NO-BREAK SPACE}% or more"


def test_a_claim_with_contrasts_names_no_arms_beside_them():
    claim = Better(Better.Config(arm="b", contrasts=contrasts.pairs([("a", "b")])))
    with pytest.raises(SpecError, match="the claim has `contrasts`"):
        claim.check(["a", "b"])
    with pytest.raises(SpecError, match="no arm 'z'"):
        Better(Better.Config(contrasts=contrasts.pairs([("a", "z")]))).check(["a", "b"])


def test_the_first_group_is_the_one_that_was_written_first():
    """Comparisons and groups are asked in the order of the spec, whatever their names."""
    law = {"type": "power_law", "than_first": "same", "groups": {"z": ["z1", "z2", "z3"], "a": ["a1", "a2", "a3"]}}
    asked = questions({"law": law}, ["z1", "z2", "z3", "a1", "a2", "a3"])
    assert [each.subject for each in asked["law"]] == ["a against z"]
    assert isinstance(built(law), PowerLaw)
