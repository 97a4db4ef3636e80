"""What claims may say: the words follow from the intervals; "no difference" needs a study that sees a known difference."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import sweeps_fakes

from analysis.report import write_report
from arch import document
from arch.contracts import UNDECIDED, Evidence, Measured, Metric
from arch.errors import DataError, SpecError
from experiments.metrics import NEXT_TOKEN
from sweeps import compare, study
from sweeps.claims.better import Better
from sweeps.claims.bound import Bound
from sweeps.claims.crosses import Crosses
from sweeps.claims.equivalent import BETTER, SAME, WORSE, Equivalent
from sweeps.claims.ordered import Ordered
from sweeps.claims.power_law import PowerLaw
from sweeps.claims.value import Value
from sweeps.paired import CONTRADICTED, SUPPORTED
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.spec import split

given_metrics = pytest.mark.parametrize("metric", [NEXT_TOKEN["loss"], NEXT_TOKEN["perplexity"], Metric()], ids=lambda m: m.compare)


def evidence(values, metric=NEXT_TOKEN["loss"], level=None, exact=False, name="report/loss", **more):
    """The Evidence of a study that is read once, with one question per arm beside the first."""
    level = 0.05 / max(1, len(values) - 1) if level is None else level
    return Evidence({name: Measured(metric, values, exact), **more}, level, 0.05)


def judged(values, known_worse=(), metric=NEXT_TOKEN["loss"], margin=0.01):
    """{arm: Verdict} of the claim `equivalent`; every arm but the baseline and the controls is one question."""
    asked = max(1, len(values) - 1 - len(known_worse))
    claim = Equivalent(Equivalent.Config(known_worse=tuple(known_worse), margin=margin))
    return claim.judge(evidence(values, metric, 0.05 / asked))


def losses(random, effects, seeds=5, spread=0.005):
    """{arm: {seed: loss}} with a seed effect that all arms share."""
    shared = random.normal(4, 0.05, seeds)
    return {arm: dict(enumerate(shared + effect + random.normal(0, spread, seeds))) for arm, effect in effects.items()}


def exactly(differences, sd=0.001, seeds=5):
    """{arm: {seed: loss}} whose differences from the first arm have this mean and this spread."""
    shape = np.linspace(-1, 1, seeds) / np.linspace(-1, 1, seeds).std(ddof=1)
    base = 4 + 0.05 * np.cos(np.arange(seeds))
    return {arm: dict(enumerate(base + (mean + sd * shape if arm != "base" else 0))) for arm, mean in differences.items()}


def test_identical_arms_are_rarely_called_different():
    random, wrong, studies = np.random.default_rng(0), 0, 800
    for _ in range(studies):
        found = judged(losses(random, dict.fromkeys("abcd", 0.0)))
        wrong += any(verdict.word in (WORSE, BETTER) for verdict in found.values())
    assert wrong / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


@given_metrics
def test_word_and_interval_never_disagree(metric):
    """The picture beside the word: both come from the same level."""
    random, words = np.random.default_rng(8), []
    low, high = compare.bounds(0.01, metric)
    for _ in range(300):
        effects = {"base": 0.0, "control": 0.1} | {f"a{i}": random.normal(0, 0.01) for i in range(3)}
        for arm, verdict in judged(losses(random, effects), ["control"], metric).items():
            if arm in ("base", "control"):
                continue
            excludes = not verdict.interval[0] <= 0 <= verdict.interval[1]
            inside = verdict.inner is not None and low <= verdict.inner[0] and verdict.inner[1] <= high
            words.append(verdict.word)
            assert (verdict.word == SAME) == inside, verdict
            assert (verdict.word in (WORSE, BETTER)) == (excludes and not inside), verdict
    assert {WORSE, BETTER, SAME} <= set(words)


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
    assert wide["up"].word == SAME and wide["up"].reason == "not zero, but within the margin of 0.5\N{NO-BREAK SPACE}points"
    assert wide["down"].word == UNDECIDED, "a control must be worse by more than the margin"


def test_smaller_than_the_margin_comes_before_worse():
    """+0.30 % with a narrow interval, margin 1 %: the user said that this does not matter."""
    for known_worse in ((), ("control",)):
        found = judged(exactly({"base": 0, "a": 0.003, "control": 0.07}), known_worse)["a"]
        assert found.word == SAME and "not zero" in found.reason and found.interval[0] > 0


def test_a_control_opens_equality_only_beyond_the_margin():
    """A control of +0.05 % shows that the study sees 0.05 %, if it is found at all; not that it sees the margin."""
    for effect, opens in ((0.0005, False), (0.009, False), (0.02, True)):
        found = judged(exactly({"base": 0, "a": 0.0, "control": effect}, sd=1e-4), ["control"])
        assert (found["a"].word == SAME) == opens and (found["control"].word == WORSE) == opens


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
        for verdict in same:
            by_itself = not verdict.interval[0] <= 0 <= verdict.interval[1]
            assert by_itself or (known and found["control"].word == WORSE)
    assert claimed


def test_undecided_says_which_word_how_many_seeds_decide():
    random = np.random.default_rng(4)
    found = judged(losses(random, {"base": 0, "a": 0.004, "control": 0.08}), ["control"])["a"]
    assert found.word == UNDECIDED
    assert (
        found.needed.word in (WORSE, SAME)
        and found.needed.seeds > 5
        and found.needed.low <= found.needed.seeds <= found.needed.high
    )


def test_what_seeds_do_not_decide_has_no_advice_on_seeds():
    found = judged(exactly({"base": 0, "a": 0.0}, sd=0.002))["a"]
    assert found.word == UNDECIDED and found.needed is None and "names no arm known to be worse" in found.reason
    missed = judged(exactly({"base": 0, "a": 0.0, "control": 0.0}, sd=0.002), ["control"])
    assert (
        missed["a"].word == UNDECIDED
        and missed["a"].needed is None
        and "control, known to be worse, was not found" in missed["a"].reason
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({0: 9.0}, "fewer than 3 seeds"),
        ({0: 9.0, 1: 9.1}, "fewer than 3 seeds"),
        ({0: 1.0, 1: 1.1, 2: 1.2}, "the same to the last bit"),
        ({0: 2.0, 1: 2.1, 2: 2.2}, "the spread is unknown"),
        ({7: 2.0}, "no seed has finished"),
    ],
)
def test_what_cannot_be_tested_decides_nothing(values, said):
    for known_worse in ((), ("a",)):
        found = judged({"base": {0: 1.0, 1: 1.1, 2: 1.2}, "a": values}, known_worse)["a"]
        assert found.word == UNDECIDED and found.needed is None and said in found.reason


def test_controls_share_the_error_and_one_that_is_better_is_said():
    values = exactly({"base": 0, "a": 0.0, "b": 0.05, "c": -0.05})
    found = judged(values, ["b", "c"])
    assert found["b"].level == found["c"].level == 0.025
    assert found["b"].word == WORSE and found["c"].word == UNDECIDED
    assert "it is not worse" in found["c"].reason and found["c"].needed is None


def test_the_baseline_is_no_control():
    with pytest.raises(SpecError, match="'a' is the baseline") as refused:
        Equivalent(Equivalent.Config(known_worse=("b", "a"))).check(["a", "b"])
    assert refused.value.path == ("known_worse", 1)


def test_only_a_control_is_a_question_of_its_own():
    claim = Equivalent(Equivalent.Config(known_worse=("b",)))
    assert claim.questions(["a", "b"]) == {"b": ("a", "b")}
    assert claim.questions(["a", "b", "c"]) == {"c": ("a", "b", "c")}
    assert Equivalent(Equivalent.Config(arms=("c",), to="b")).questions(["a", "b", "c"]) == {"c": ("b", "c")}


def test_controls_that_are_the_questions_share_the_error():
    """With nothing else to ask, each of two controls is a question; a gate takes no share."""
    values = exactly({"base": 0, "one": 0.0155, "two": 0.0155}, sd=0.005)
    alone = Equivalent(Equivalent.Config(known_worse=("one", "two"))).judge(evidence(values, level=0.025))
    assert {alone[arm].level for arm in ("one", "two")} == {0.025}
    gate = Equivalent(Equivalent.Config(known_worse=("one",))).judge(evidence(values, level=0.025))
    assert gate["one"].level == 0.05 and gate["two"].level == 0.025


def test_the_old_spelling_is_one_claim(study_data):
    old = split(document.node(study_data | {"claim": {"margin": 0.02, "known_worse": ["all local"]}}))[0].claims
    new = {"type": "equivalent", "metric": "report/loss", "margin": 0.02, "known_worse": ["all local"], "arms": [], "to": None}
    assert old == {"claim": new}
    for name in ("equivalent", "against_baseline"):  # the claim's present name and its first one
        assert split(document.node(study_data | {"claims": {"claim": new | {"type": name}}}))[0].claims == old
    assert list(split(document.node(study_data))[0].claims.values()) == [new | {"margin": 0.01, "known_worse": []}]


def test_an_old_record_opens_with_its_claim():
    paths = sorted((document.ROOT / "results" / "gemma3-local_global").glob("*/study.json"))
    old = {path: json.loads(path.read_text())["claim"] for path in paths if "claim" in json.loads(path.read_text())}
    assert old, "a record of the first version stays in results/"
    for path, written in old.items():
        assert StudyRecord.read(path.parent).claims == {"claim": {"type": "equivalent", **written}}


AGAINST = {"type": "equivalent"}
SPACE = {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}


@pytest.mark.parametrize(
    ("change", "line_of", "reason"),
    [
        ({"claims": {"quality": AGAINST | {"metric": "report/los"}}}, "report/los", "did you mean 'report/loss'"),
        ({"claims": {"quality": AGAINST | {"metric": "select/loss"}}}, "select/loss", "expected report/METRIC"),
        ({"claims": {"quality": AGAINST | {"known_worse": ["all lokal"]}}}, "all lokal", "did you mean 'all local'"),
        ({"claims": {"quality": {"type": "equivalnt"}}}, "equivalnt", "did you mean 'equivalent'"),
        ({"claims": {"quality": AGAINST | {"margn": 1.0}}}, "margn", "did you mean 'margin'"),
        ({"claims": {"quality": AGAINST | {"margin": 1.0}}}, '"margin"', "1 means 100.*0.01 is 1"),
        ({"claims": {"quality": AGAINST | {"to": "all lokal"}}}, "all lokal", "did you mean 'all local'"),
        (
            {"claims": {"x": {"type": "value", "metric": "cost/parameters", "arm": "1:1", "value": 5.0, "within": 9.0}}},
            '"within"',
            "9 means 900",
        ),
        ({"claims": {"x": {"type": "better", "arm": "all lokal"}}}, "all lokal", "did you mean 'all local'"),
        ({"claims": {"x": {"type": "ordered", "metric": "report/loss", "arms": ["1:1"]}}}, '"arms": [\n', "at least 3"),
        ({"claims": {"x": {"type": "crosses", "early": ["1:1", "1:1"], "late": ["1:1", "all local"]}}}, '"early"', "twice"),
        ({"claims": {"x": {"type": "power_law", "groups": {"a": ["1:1"]}}}}, '"x"', "otherwise nothing is claimed"),
        ({"claims": {"x": {"type": "power_law", "groups": {}, "exponent": -0.1}}}, '"groups"', "expected at least one"),
        ({"claims": {"x": {"type": "better", "arm": "1:1"}}}, '"arm"', "compared with itself"),
        ({"claims": {"x": {"type": "not_worse", "arm": "all local", "than": "all local"}}}, '"arm"', "compared with itself"),
        ({"seeds": {"min": 5, "max": 3, "until": "decided"}}, '"seeds"', "must not be above max"),
        ({"seeds": {"min": 5, "max": 8}}, '"seeds"', "until"),
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
    line = max(i for i, text in enumerate(path.read_text().splitlines(keepends=True), 1) if line_of in text)
    with pytest.raises(SpecError, match=reason) as refused:
        study.check(document.load(str(path), "sweeps"))
    assert refused.value.line == line, refused.value


def test_equal_sizes_have_no_exponent():
    """A line through points above each other would have any slope."""
    values = losses(np.random.default_rng(9), {"a": 0.0, "b": 0.0, "c": 0.0})
    claim = PowerLaw(PowerLaw.Config(groups={"g": ("a", "b", "c")}, over="cost/parameters", exponent=-0.1, within=0.05))
    for sizes, tested in (((1e6, 1e6, 1e6), False), ((1e6, 1e6, 2e6), False), ((1e6, 2e6, 4e6), True)):
        over = Measured(Metric(), {arm: {0: size} for arm, size in zip("abc", sizes, strict=True)}, exact=True)
        verdict = claim.judge(evidence(values, **{"cost/parameters": over}))["exponent of g"]
        assert (verdict.word != UNDECIDED) == tested == ("different values of cost/parameters" not in verdict.reason)


CLAIMS = {
    "better": lambda: Better(Better.Config(by=0.01, arm="a")),
    "ordered": lambda: Ordered(Ordered.Config(arms=("base", "a", "b"), margin=0.005)),
    "crosses": lambda: Crosses(Crosses.Config(early=("base", "a"), late=("base", "b"))),
    "at_least": lambda: Bound(Bound.Config(metric="report/loss", arm="a", at_least=1.0, relative_to="base")),
    "at_most": lambda: Bound(Bound.Config(metric="report/loss", arm="a", at_most=1.0, relative_to="base")),
    "value": lambda: Value(Value.Config(metric="report/loss", arm="a", value=1.0, relative_to="base", within=0.01)),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_p_value_of_a_claim_is_that_of_the_word(claim):
    """A contradicted claim shows the p of the test that contradicts it, so each p is below the level where there is a word."""
    random, words = np.random.default_rng(5), set()
    for effects in ({"a": 0, "b": 0}, {"a": -0.05, "b": -0.1}, {"a": 0.05, "b": 0.1}, {"a": 0.05, "b": -0.1}):
        for _ in range(8):
            for verdict in CLAIMS[claim]().judge(evidence(losses(random, {"base": 0, **effects}), level=0.02)).values():
                words.add(verdict.word)
                assert (verdict.p <= 0.02) == (verdict.word in (SUPPORTED, CONTRADICTED))
    assert {SUPPORTED, CONTRADICTED} <= words


TIME = Metric(unit="s", compare="ratio", varies="machine")


BOUNDS = [({"at_least": 1.9}, SUPPORTED), ({"at_least": 2.1}, CONTRADICTED), ({"at_most": 2.1}, SUPPORTED)]


@pytest.mark.parametrize("bound, word", BOUNDS)
def test_a_bound_is_one_sided_and_in_the_metrics_own_unit(bound, word):
    values = {"base": dict(enumerate([1.0, 1.01, 0.99, 1.0])), "a": dict(enumerate([2.0, 2.01, 1.99, 2.002]))}
    for relative_to in (None, "base"):
        config = Bound.Config(metric="report/step_seconds", arm="a", relative_to=relative_to, **bound)
        found = Bound(config).judge(evidence(values, TIME, 0.05, name="report/step_seconds"))["a"]
        assert found.word == word and found.p <= 0.05
    undecided = Bound(Bound.Config(metric="report/step_seconds", arm="a", at_most=2.0)).judge(
        evidence(values, TIME, 0.05, name="report/step_seconds")
    )["a"]
    assert undecided.word == UNDECIDED and undecided.needed is not None
    said = Bound(Bound.Config(metric="report/step_seconds", arm="a", at_most=2.5)).statement("a", undecided, TIME)
    assert said == "report/step_seconds of a is at most 2.5"


def test_an_exact_number_at_the_bound_is_within_it():
    exact = evidence({"a": {0: 3.0}}, Metric(compare="ratio"), 0.05, exact=True, name="cost/cache_bytes@64")
    word = lambda **bound: Bound(Bound.Config(metric="cost/cache_bytes@64", arm="a", **bound)).judge(exact)["a"].word  # noqa: E731
    assert word(at_least=3.0) == word(at_most=3.0) == word(at_most=3.1) == SUPPORTED
    assert word(at_least=3.01) == word(at_most=2.99) == CONTRADICTED
    for wrong in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="expected one of `at_least` and `at_most`"):
            Bound.Config(metric="report/loss", arm="a", **wrong)


def test_what_ordered_states_is_what_it_tests():
    """A step that goes back by less than the margin does not contradict it, so the words must not deny such a step."""
    claim = Ordered(Ordered.Config(arms=("base", "a", "b"), margin=0.01))
    found = claim.judge(evidence(exactly({"base": 0, "a": -0.003, "b": 0.06}), level=0.05))["base → a → b"]
    said = claim.statement("base → a → b", found, NEXT_TOKEN["loss"])
    assert "every step" not in said and "no step is better by 1\N{NO-BREAK SPACE}% or more" in said


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


def test_an_exact_ratio_on_the_bound_is_within_it():
    from arch.contracts import Evidence, Measured, Metric
    from sweeps.claims.bound import Bound

    for y in range(2, 60):
        for x in range(1, y):
            claim = Bound(Bound.Config(metric="cost/parameters", arm="a", relative_to="b", at_most=x / y))
            measured = Measured(Metric(compare="ratio"), {"a": {0: float(x)}, "b": {0: float(y)}}, exact=True)
            found = claim.judge(Evidence({"cost/parameters": measured}, 0.05, 0.05))
            assert found["a"].word == "supported"
