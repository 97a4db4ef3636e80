"""The rank correlation of a score with an outcome over the levels of a factor: its numbers, its errors, what it compares."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from arch import document
from arch.contracts import UNDECIDED, Evidence, Measured, Metric
from arch.errors import SpecError
from experiments.metrics import NEXT_TOKEN
from sweeps import judge, study
from sweeps.claims import rank_correlation
from sweeps.claims.rank_correlation import METHODS, RankCorrelation
from sweeps.paired import CONTRADICTED, SUPPORTED

SCORES = {f"m{i}": 0.1 * i for i in range(6)}
CLAIM = {"type": "rank_correlation", "over": "mixer", "at": "task=text"}


def claim(**options):
    return RankCorrelation(RankCorrelation.Config(over="mixer", at="task=text", **options))


def evidence(scores, losses, noise=0.0, seeds=3, level=0.05, seed=0):
    """The Evidence of a grid of mixers x {copy, recall, text}: accuracies around a score, losses around a loss."""
    random = np.random.default_rng(seed)
    values = {"report/accuracy": {}, "report/loss": {}}
    for mixer, score in scores.items():
        means = {"copy": score + 0.05, "recall": score - 0.05, "text": 0.3}
        for task, accuracy in means.items():
            label, loss = f"task={task} mixer={mixer}", losses[mixer] if task == "text" else 9.0
            values["report/accuracy"][label] = {s: accuracy + noise * random.normal() for s in range(seeds)}
            values["report/loss"][label] = {s: loss + noise * random.normal() for s in range(seeds)}
    kinds = {"report/accuracy": NEXT_TOKEN["accuracy"], "report/loss": NEXT_TOKEN["loss"]}
    return Evidence({name: Measured(kinds[name], each) for name, each in values.items()}, level, level)


def verdict(*args, method="spearman", **more):
    (found,) = claim(method=method).judge(evidence(*args, **more)).values()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_order_is_as_probable_as_one_of_all_orders(method):
    falling = {mixer: 4 - score for mixer, score in SCORES.items()}
    rising = {mixer: 4 + score for mixer, score in SCORES.items()}
    good, bad = verdict(SCORES, falling, method=method), verdict(SCORES, rising, method=method)
    assert (good.word, bad.word) == (SUPPORTED, CONTRADICTED), "a lower loss is the better one"
    assert good.difference == pytest.approx(1) and bad.difference == pytest.approx(-1)
    assert good.p == bad.p == pytest.approx(1 / math.factorial(6), abs=1e-9) and good.n == 3
    assert good.interval[0] <= good.difference <= good.interval[1] + 1e-12


@pytest.mark.parametrize(("method", "theirs"), [("spearman", stats.spearmanr), ("kendall", stats.kendalltau)])
def test_the_correlations_are_those_of_scipy_with_ties_too(method, theirs):
    random = np.random.default_rng(1)
    x, y = (random.integers(0, 4, (40, 7)).astype(float) for _ in range(2))
    for ours, a, b in zip(METHODS[method](x, y), x, y, strict=True):
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert ours == pytest.approx(theirs(a, b)[0], abs=1e-12)
    assert np.isnan(METHODS[method](np.ones((1, 5)), np.arange(5.0)[None])).all(), "no order, no correlation"


@pytest.mark.parametrize("levels", [6, 9])
def test_where_nothing_predicts_anything_it_is_rarely_said(levels, monkeypatch):
    monkeypatch.setattr(rank_correlation, "DRAWS", 400)
    random, said, studies = np.random.default_rng(2), [], 250
    for i in range(studies):
        scores = {f"m{k}": float(random.normal()) for k in range(levels)}
        losses = {mixer: 4 + float(random.normal()) for mixer in scores}
        found = verdict(scores, losses, noise=0.3, seed=i)
        assert found.level == 0.05 and (found.p <= 0.05) == (found.word != UNDECIDED)
        said.append(found.word)
    rare = 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert said.count(SUPPORTED) / studies < rare and said.count(CONTRADICTED) / studies < rare


def test_the_interval_has_the_levels_as_its_sample_and_not_only_the_seeds():
    """Without any noise over seeds the order of five levels is still only one of five; more seeds do not narrow it."""
    losses = dict(zip(SCORES, (4.0, 3.9, 3.7, 3.8, 3.6, 3.5), strict=True))
    few, many = verdict(SCORES, losses), verdict(SCORES, losses, seeds=12)
    assert few.interval == pytest.approx(many.interval) and few.interval[1] - few.interval[0] > 0.1
    assert few.difference == pytest.approx(stats.spearmanr(list(SCORES.values()), [-loss for loss in losses.values()])[0])
    assert "over 6 levels of mixer" in few.reason


def test_the_order_of_the_arms_does_not_matter():
    losses = dict(zip(SCORES, (4.0, 3.9, 3.7, 3.8, 3.6, 3.5), strict=True))
    straight = evidence(SCORES, losses)
    order = lambda label: (label.split()[0], label[-1] in "024", label)  # noqa: E731
    mixed = {
        name: Measured(each.metric, {label: each.values[label] for label in sorted(each.values, key=order)})
        for name, each in straight.measured.items()
    }
    turned = {name: Measured(each.metric, dict(reversed(each.values.items()))) for name, each in straight.measured.items()}
    (expected,) = claim().judge(straight).values()
    for measured in (mixed, turned):
        (found,) = claim().judge(Evidence(measured, 0.05, 0.05)).values()
        assert found.difference == pytest.approx(expected.difference) and found.p == pytest.approx(expected.p)


def test_without_an_order_or_a_seed_nothing_is_decided():
    same = verdict(SCORES, dict.fromkeys(SCORES, 4.0))
    assert same.word == UNDECIDED and "no order" in same.reason
    none = verdict(SCORES, dict.fromkeys(SCORES, 4.0), seeds=0)
    assert none.word == UNDECIDED and "no seed has finished" in none.reason


LABELS = [f"task={task} mixer=m{i}" for task in ("copy", "recall", "text") for i in range(5)]


@pytest.mark.parametrize(
    ("change", "labels", "key", "reason"),
    [
        ({"over": "mixr"}, LABELS, "over", "no factor 'mixr'; did you mean 'mixer'"),
        ({"at": "task=txt"}, LABELS, "at", "no arm has 'task=txt'"),
        ({"at": "text"}, LABELS, "at", "no arm has 'text'; expected FACTOR=LEVEL"),
        ({"over": "task", "at": "mixer=m0"}, LABELS, "over", "task has 3 levels; a rank correlation needs at least 5"),
        ({}, [*LABELS[:4], *LABELS[5:]], "over", "mixer=m4 has other scores"),
        ({}, LABELS[:-1], "over", "mixer=m4 has other outcomes"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(change, labels, key, reason):
    config = RankCorrelation.Config(**{"over": "mixer", "at": "task=text"} | change)
    with pytest.raises(SpecError, match=reason) as refused:
        RankCorrelation(config).check(labels)
    assert refused.value.path == (key,)
    claim().check(LABELS)


def test_only_arms_of_the_same_task_are_compared():
    groups = claim().alike([*LABELS, "another arm"])
    assert sorted(len(group) for group in groups) == [5, 5, 5] and {arm for group in groups for arm in group} == set(LABELS)
    assert all(len({label.split()[0] for label in group}) == 1 for group in groups)
    (asked,) = judge.questions({"x": {**CLAIM, "metric": "report/accuracy"}}, [*LABELS, "another arm"])["x"]
    assert list(asked.arms) == LABELS


def test_tasks_of_different_rows_are_one_study_where_the_claim_keeps_them_apart(tmp_path, study_data):
    """Another context makes other rows: a claim that compares across them is refused, this one is not."""
    tasks = {"short": {}, "long": {"data.context": 48}, "text": {}}
    mixers = {f"m{i}": {"model.blocks.local.mixer.window": 2 + i} for i in range(5)}
    data = {key: value for key, value in study_data.items() if key not in ("arms", "claim", "claims")}
    data |= {"grid": {"task": tasks, "mixer": mixers}, "claims": {"x": CLAIM}}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(data, indent=1))
    spec, arms = study.check(document.load(str(path), "sweeps"))
    assert len(arms) == 15 and spec.claims["x"]["metric"] == "report/accuracy"
    path.write_text(json.dumps(data | {"claims": {"x": {"type": "equivalent"}}}, indent=1))
    with pytest.raises(SpecError, match="has the context 48"):
        study.check(document.load(str(path), "sweeps"))


def test_a_score_of_a_lower_is_better_metric_is_turned_around():
    better_low = Evidence(
        {
            name: Measured(Metric(better="lower"), {label: {s: 0.1 * int(label[-1]) for s in range(3)} for label in LABELS})
            for name in ("report/a", "report/b")
        },
        0.05,
        0.05,
    )
    (found,) = claim(metric="report/a", outcome="report/b").judge(better_low).values()
    assert found.difference == pytest.approx(1) and found.word == SUPPORTED
