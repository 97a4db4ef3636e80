"""The claim `rises`: a metric of an arm is above others of the same arm, within each seed."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from arch import document
from arch.contracts import UNDECIDED, Evidence, Measured, Metric
from arch.errors import SpecError
from arch.units import SPACE
from sweeps import study
from sweeps.claims.rises import Rises
from sweeps.paired import CONTRADICTED, IDENTICAL, SUPPORTED

SHARE = Metric(unit="of documents")


def evidence(level=0.05, arms=("a",), **values):
    """Values by metric, the same for each arm."""
    measured = {f"report/{name}": Measured(SHARE, {arm: dict(enumerate(each)) for arm in arms}) for name, each in values.items()}
    return Evidence(measured, level, level)


def claim(over=("low",), **options):
    return Rises(Rises.Config(metric="report/high", over=[f"report/{name}" for name in over], **options))


def test_a_rise_is_a_paired_t_test_within_the_arm():
    random = np.random.default_rng(0)
    low = random.normal(0.3, 0.2, 6)
    high = low + random.normal(0.2, 0.05, 6)
    verdict = claim(by=0.1).judge(evidence(low=low, high=high))["a"]
    expected = ttest_1samp(high - low, 0.1, alternative="greater")
    assert (verdict.word, verdict.n, verdict.p) == (SUPPORTED, 6, pytest.approx(expected.pvalue))
    assert verdict.interval == pytest.approx(tuple(ttest_1samp(high - low, 0).confidence_interval(0.9)))
    assert claim(by=0.4).judge(evidence(low=low, high=high))["a"].word == CONTRADICTED
    close = claim(by=float((high - low).mean()) - 0.001).judge(evidence(low=low, high=high))["a"]
    assert close.word == UNDECIDED and close.needed.seeds > 6


def test_every_step_must_hold():
    random = np.random.default_rng(1)
    low, middle, high = (random.normal(mean, 0.01, 6) for mean in (0.0, 0.5, 0.3))
    values = {"low": low, "middle": middle, "high": high}
    assert claim(by=0.1).judge(evidence(**values))["a"].word == SUPPORTED
    assert claim(("low", "middle"), by=0.1, margin=0.05).judge(evidence(**values))["a"].word == CONTRADICTED
    assert claim(("low", "middle"), by=0.1, margin=0.4).judge(evidence(**values))["a"].word == SUPPORTED
    assert "steps: +0.5" in claim(("low", "middle"), by=0.1, margin=0.4).judge(evidence(**values))["a"].reason


def test_false_words_keep_their_level():
    """No rise beyond `by` is called one with the level, and a true one is contradicted with at most the level."""
    random = np.random.default_rng(2)
    words = []
    for _ in range(1500):
        low, middle, high = (random.normal(mean, 0.1, 5) for mean in (0.0, 0.05, 0.1))
        words.append(claim(("low", "middle"), by=0.1, margin=0.2).judge(evidence(low=low, middle=middle, high=high))["a"].word)
    assert 0.02 < words.count(SUPPORTED) / 1500 < 0.07 and words.count(CONTRADICTED) / 1500 < 0.05 + 0.02


def test_what_is_the_same_in_every_seed_decides_nothing():
    same = claim().judge(evidence(low=[0.5] * 4, high=[0.5] * 4))["a"]
    assert same.word == UNDECIDED and same.reason == IDENTICAL


def test_each_arm_is_a_question_of_its_own_and_needs_no_other():
    asked = claim().questions(("a", "b"))
    assert asked == {"a": ("a",), "b": ("b",)} and claim(arm="b").questions(("a", "b")) == {"b": ("b",)}
    random = np.random.default_rng(3)
    values = {"low": random.normal(0, 0.1, 5), "high": random.normal(1, 0.1, 5)}
    assert set(claim().judge(evidence(arms=("a", "b"), **values))) == {"a", "b"}
    said = claim(("low", "middle"), by=0.1).statement("a", None, SHARE)
    expected = "report/high of a is above report/low by more than 0.1 of documents, and no step falls by 0.01 of documents"
    assert said.replace(SPACE, " ") == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arm": "nobody"}, "no arm 'nobody'"),
        ({"over": ["report/loss", "report/perplexity"]}, "a metric is named twice"),
        ({"over": []}, "over"),
        ({"over": ["report/loss", "report/nothing"]}, "has the metric 'report/nothing'"),
        ({"metric": "report/nothing"}, "has the metric 'report/nothing'"),
        ({"over": ["select/loss"]}, "expected report/METRIC"),
    ],
)
def test_what_cannot_rise_is_refused(study_data, options, said):
    study_data["claims"] = {"up": {"type": "rises", "metric": "report/perplexity", "over": ["report/loss"], **options}}
    with pytest.raises(SpecError) as caught:
        study.check(document.node(study_data))
    assert said in str(caught.value)
