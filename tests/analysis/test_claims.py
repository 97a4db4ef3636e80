"""Differences keep their error level; "no difference" needs a study that detects a known difference."""

import numpy as np
import pytest

from analysis.claims import BETTER, SAME, UNDECIDED, WORSE, judge, larger_command, verdicts
from analysis.runs import load


def losses(random, effects, seeds=5, spread=0.005):
    """{arm: {seed: loss}} with a seed effect that all arms share."""
    shared = random.normal(4, 0.05, seeds)
    return {arm: dict(enumerate(shared + effect + random.normal(0, spread, seeds))) for arm, effect in effects.items()}


def test_identical_arms_are_rarely_called_different():
    random, wrong, studies = np.random.default_rng(0), 0, 800
    for _ in range(studies):
        found = verdicts(losses(random, dict.fromkeys("abcd", 0.0)), 0.01)
        wrong += any(verdict.word in (WORSE, BETTER) for verdict in found.values())
    assert wrong / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_a_planted_effect_is_found_with_its_sign():
    random = np.random.default_rng(1)
    found = verdicts(losses(random, {"base": 0, "up": 0.05, "down": -0.05}), 0.01)
    assert (found["up"].word, found["down"].word) == (WORSE, BETTER)
    assert found["up"].difference.low < 0.05 < found["up"].difference.high


def test_equality_needs_the_known_worse_arm_to_be_found():
    random = np.random.default_rng(2)
    for control in (0.0, 0.05):
        effects = {"base": 0, "same": 0, "control": control}
        found = verdicts(losses(random, effects, spread=0.001), 0.01, ["control"])
        assert found["same"].p_same < 0.05
        assert found["same"].word == (SAME if control else UNDECIDED)


def test_equality_is_never_claimed_without_detection():
    random = np.random.default_rng(3)
    claimed = 0
    for _ in range(300):
        effects = {"base": 0, "a": 0, "b": 0.002, "control": random.choice([-0.02, 0.0, 0.01, 0.03])}
        known = ["control"] if random.uniform() < 0.8 else []
        found = verdicts(losses(random, effects), 0.01, known)
        same = [verdict for verdict in found.values() if verdict.word == SAME]
        claimed += len(same)
        if same:
            assert known and found["control"].word == WORSE
    assert claimed


def test_undecided_says_how_many_seeds_decide():
    random = np.random.default_rng(4)
    found = verdicts(losses(random, {"base": 0, "a": 0.004, "control": 0.08}), 0.01, ["control"])
    assert found["a"].word == UNDECIDED
    assert found["a"].seeds_needed > 5


def test_one_seed_decides_nothing():
    found = verdicts({"base": {0: 1.0}, "a": {0: 9.0}}, 0.01)
    assert found["a"].word == UNDECIDED and found["a"].seeds_needed is None
    assert "one seed" in found["a"].reason


def test_answer_of_an_undecided_study_names_the_larger_scale(make_study):
    study = load(make_study(spread=0.02))
    text = " ".join(judge(study).sentences)
    assert "undecided" in text
    assert "archbench study run gemma3/local_global --scale laptop" in text


def test_answer_of_a_decided_study(make_study):
    judgement = judge(load(make_study(spread=0.0005)))
    assert judgement.known_worse_found and not judgement.undecided
    assert [judgement.verdicts[arm].word for arm in ("3:1", "5:1", "local-only")] == [SAME, SAME, WORSE]
    assert "Incomplete" not in " ".join(judgement.sentences)


def test_failed_runs_are_said(make_study):
    judgement = judge(load(make_study(failed=[("3:1", 0)], missing=[("5:1", 1)])))
    assert judgement.verdicts["3:1"].difference.n == 4
    assert any("18 of 20 runs" in remark and "1 failed" in remark and "1 missing" in remark for remark in judgement.remarks)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("sweeps run s --scale demo --workers 2", "sweeps run s --scale big --workers 2"),
        ("sweeps run s", "sweeps run s --scale big"),
    ],
)
def test_larger_command(make_study, command, expected):
    study = load(make_study(command=command, larger_scale="big"))
    assert larger_command(study.record) == expected
