"""Differences keep their error level; "no difference" needs a study that detects a known difference."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import sweeps_fakes

from analysis.report import write_report
from arch import document
from arch.contracts import Metric
from arch.errors import DataError, SpecError
from experiments.metrics import NEXT_TOKEN
from sweeps import compare, study
from sweeps.claims.against_baseline import BETTER, SAME, UNDECIDED, WORSE, AgainstBaseline
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.spec import split

given_metrics = pytest.mark.parametrize("metric", [NEXT_TOKEN["loss"], NEXT_TOKEN["perplexity"], Metric()], ids=lambda m: m.compare)


def judged(values, known_worse=(), metric=NEXT_TOKEN["loss"], margin=0.01):
    """{arm: Verdict} of the claim against the baseline."""
    return AgainstBaseline(AgainstBaseline.Config(known_worse=tuple(known_worse), margin=margin)).judge(values, metric)


def losses(random, effects, seeds=5, spread=0.005):
    """{arm: {seed: loss}} with a seed effect that all arms share."""
    shared = random.normal(4, 0.05, seeds)
    return {arm: dict(enumerate(shared + effect + random.normal(0, spread, seeds))) for arm, effect in effects.items()}


def test_identical_arms_are_rarely_called_different():
    random, wrong, studies = np.random.default_rng(0), 0, 800
    for _ in range(studies):
        found = judged(losses(random, dict.fromkeys("abcd", 0.0)))
        wrong += any(verdict.word in (WORSE, BETTER) for verdict in found.values())
    assert wrong / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_a_planted_effect_is_found_with_its_sign():
    random = np.random.default_rng(1)
    found = judged(losses(random, {"base": 0, "up": 0.05, "down": -0.05}))
    assert (found["up"].word, found["down"].word) == (WORSE, BETTER)


def test_a_higher_accuracy_is_better_and_its_margin_is_in_its_unit():
    accuracy, random = Metric(unit="points", better="higher", compare="difference"), np.random.default_rng(1)
    values = losses(random, {"base": 0, "up": 0.05, "down": -0.05, "same": 0}, spread=0.001)
    found = judged(values, ["down"], accuracy)
    assert [found[arm].word for arm in ("up", "down", "same")] == [BETTER, WORSE, SAME]
    wide = judged(values, ["down"], accuracy, margin=0.5)
    assert wide["up"].word == BETTER and wide["up"].reason == "by less than the margin of 0.5\N{NO-BREAK SPACE}points"


def test_a_perplexity_is_judged_as_the_loss_that_it_is_the_exponential_of():
    values = losses(np.random.default_rng(6), {"base": 0, "a": 0.004, "control": 0.08})
    perplexities = {arm: {seed: math.exp(value) for seed, value in each.items()} for arm, each in values.items()}
    by_loss, by_perplexity = judged(values, ["control"]), judged(perplexities, ["control"], NEXT_TOKEN["perplexity"])
    for arm, verdict in by_loss.items():
        assert by_perplexity[arm].word == verdict.word
        assert by_perplexity[arm].p == (None if verdict.p is None else pytest.approx(verdict.p))


def test_what_has_no_better_side_is_not_judged():
    with pytest.raises(DataError, match="only shown"):
        judged({"base": {0: 1.0, 1: 1.1}, "a": {0: 2.0, 1: 2.1}}, (), Metric(better="neither"))
    with pytest.raises(DataError, match="above 0"):
        judged({"base": {0: 0.0}, "a": {0: 2.0}}, (), Metric(compare="ratio"))


@given_metrics
def test_a_margin_is_an_effect_on_either_side(metric):
    low, high = compare.bounds(0.01, metric)
    assert compare.effect(low, metric) == pytest.approx(-0.01) and compare.effect(high, metric) == pytest.approx(0.01)
    assert compare.off_scale(compare.on_scale(3.0, metric), metric) == pytest.approx(3.0)


def test_equality_needs_the_known_worse_arm_to_be_found():
    random = np.random.default_rng(2)
    for control in (0.0, 0.05):
        effects = {"base": 0, "same": 0, "control": control}
        found = judged(losses(random, effects, spread=0.001), ["control"])
        assert found["same"].p_same < 0.05
        assert found["same"].word == (SAME if control else UNDECIDED)


def test_equality_is_never_claimed_without_detection():
    random = np.random.default_rng(3)
    claimed = 0
    for _ in range(300):
        effects = {"base": 0, "a": 0, "b": 0.002, "control": random.choice([-0.02, 0.0, 0.01, 0.03])}
        known = ["control"] if random.uniform() < 0.8 else []
        found = judged(losses(random, effects), known)
        same = [verdict for verdict in found.values() if verdict.word == SAME]
        claimed += len(same)
        if same:
            assert known and found["control"].word == WORSE
    assert claimed


def test_undecided_says_how_many_seeds_decide():
    random = np.random.default_rng(4)
    found = judged(losses(random, {"base": 0, "a": 0.004, "control": 0.08}), ["control"])
    assert found["a"].word == UNDECIDED
    assert found["a"].seeds_needed > 5


def test_one_seed_decides_nothing():
    found = judged({"base": {0: 1.0}, "a": {0: 9.0}})
    assert found["a"].word == UNDECIDED and found["a"].seeds_needed is None
    assert "one seed" in found["a"].reason


def test_the_old_spelling_is_one_claim(study_data):
    old = split(document.node(study_data | {"claim": {"margin": 0.02, "known_worse": ["all local"]}}))[0].claims
    new = {"type": "against_baseline", "metric": "report/loss", "margin": 0.02, "known_worse": ["all local"]}
    assert old == {"claim": new}
    assert split(document.node(study_data | {"claims": {"claim": new}}))[0].claims == old
    assert list(split(document.node(study_data))[0].claims.values()) == [new | {"margin": 0.01, "known_worse": []}]


def test_an_old_record_opens_with_its_claim():
    for path in sorted((document.ROOT / "results" / "gemma3-local_global").glob("*/study.json")):
        written = json.loads(path.read_text())["claim"]
        assert StudyRecord.read(path.parent).claims == {"claim": {"type": "against_baseline", **written}}


AGAINST = {"type": "against_baseline"}
SPACE = {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}


@pytest.mark.parametrize(
    ("change", "line_of", "reason"),
    [
        ({"claims": {"quality": AGAINST | {"metric": "report/los"}}}, "report/los", "did you mean 'report/loss'"),
        ({"claims": {"quality": AGAINST | {"metric": "select/loss"}}}, "select/loss", "expected report/METRIC"),
        ({"claims": {"quality": AGAINST | {"known_worse": ["all lokal"]}}}, "all lokal", "did you mean 'all local'"),
        ({"claims": {"quality": {"type": "against_basline"}}}, "against_basline", "did you mean 'against_baseline'"),
        ({"claims": {"quality": AGAINST | {"margn": 1.0}}}, "margn", "did you mean 'margin'"),
        ({"claim": {"known_worse": ["all lokal"]}}, "all lokal", "did you mean 'all local'"),
        ({"claim": {}, "claims": {"quality": AGAINST}}, '"claim"', "an older spelling"),
        ({"claims": {}}, "claims", "at least one"),
        ({"tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, "metric": "select/los"}}, "select/los", "did you mean"),
        (
            {"tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, "metric": "report/loss"}},
            "report/loss",
            "select/METRIC",
        ),
    ],
)
def test_a_claim_is_refused_at_its_line(tmp_path, study_data, change, line_of, reason):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data | change, indent=1))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if line_of in text)
    with pytest.raises(SpecError, match=reason) as refused:
        study.check(document.load(str(path), "sweeps"))
    assert refused.value.line == line, refused.value


def test_a_study_is_read_without_pandas_matplotlib_and_scipy(tmp_path, study_data):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data))
    code = (
        "import sys, sweeps.metrics, sweeps.compare, sweeps.stats; from arch import document; from sweeps.spec import split; "
        f"split(document.load({str(path)!r}, 'sweeps')); "
        "print([name for name in ('pandas', 'matplotlib', 'scipy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=document.ROOT)
    assert done.stdout.strip() == "[]"


def test_a_claim_of_ones_own_is_one_file_and_one_line(plugins, plan_study, study_data, console):
    own = {"type": "own_claim:Below", "metric": "report/loss", "value": 2.5, "arm": "all local"}
    with pytest.raises(SpecError, match=r"claims.low.arm: no arm 'all lokal'"):
        plan_study(study_data | {"claims": {"low": own | {"arm": "all lokal"}}})
    for claims in ({"low": own}, {"quality": AGAINST, "low": own}):
        planned = plan_study(study_data | {"claims": claims})
        run_study(planned, 1, console, sweeps_fakes.prepare)
        page = write_report(planned.folder).read_text()
        assert "is below" in page and "its highest report/loss is 2.0" in page
        assert (planned.folder / "results-low.csv").exists() == (len(claims) == 2)


OWN_EVALUATOR = """
from arch.contracts import Findings, Metric
from arch.registry import evaluator
from arch.spec import Spec


@evaluator
class Recall:
    class Config(Spec):
        pass

    needs = frozenset()
    metrics = {"recall": Metric(better="higher")}

    def __init__(self, config):
        pass

    def __call__(self, model, dataset, given):
        return Findings({"recall": 0.5})
"""


def test_a_claim_may_be_on_what_an_evaluator_measures_and_only_where_it_does(tmp_path, monkeypatch, study_data):
    (tmp_path / "recall_evaluator.py").write_text(OWN_EVALUATOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    study_data["evaluate"] = {"every": 6, "report": {"recall": {"type": "recall_evaluator:Recall"}}}
    claims = {"memory": AGAINST | {"metric": "report/recall"}}
    assert study.check(document.node(study_data | {"claims": claims}))[0].claims["memory"]["metric"] == "report/recall"
    with pytest.raises(SpecError, match=r"claims.quality.metric: no run of arm '1:1' has the metric 'report/loss'"):
        study.check(document.node(study_data | {"claims": {"quality": AGAINST}}))
