"""An arm may name its first seed: it has runs of its own, and is compared without pairing, by Welch's t test."""

import math

import numpy as np
import pytest
import sweeps_fakes as fakes
from scipy.stats import nct, t, ttest_ind

from arch import document
from arch.contracts import Measured, Metric
from arch.errors import SpecError
from sweeps import edited, foreseen, judge, looking, outcomes, paired, show, stats, status, study
from sweeps.power import power
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.simulation import run as simulation
from sweeps.simulation import scenarios
from sweeps.spec import split


@pytest.fixture
def aa_data(study_data):
    """Two identical arms on disjoint seeds and a control, with losses that are drawn."""
    study_data["arms"] = {
        "base": {"optimizer.lr": fakes.BASE},
        "again": {"optimizer.lr": fakes.BASE, "first_seed": 100},
        "worse": {"optimizer.lr": fakes.CONTROL},
    }
    study_data["claims"] = {"quality": {"type": "equivalent", "margin": 0.05, "known_worse": ["worse"]}}
    return study_data | {"seeds": 4}


def drawn(n, its_n, sd=1.0, its_sd=3.0):
    random = np.random.default_rng(n * its_n)
    return {
        "a": dict(enumerate(random.normal(0.4, sd, n))),
        "b": {100 + i: x for i, x in enumerate(random.normal(0, its_sd, its_n))},
    }


@pytest.mark.parametrize(("n", "its_n"), [(3, 3), (5, 5), (4, 9)])
def test_arms_with_other_seeds_are_compared_as_scipy_compares_independent_samples(n, its_n):
    values = drawn(n, its_n)
    sample = stats.weighted(values, {"a": 1.0, "b": -1.0}, first_seeds={"b": 100})
    a, b = (list(each.values()) for each in values.values())
    for bound in (-0.5, 0.0, 1.0):
        above = ttest_ind(np.subtract(a, bound), b, equal_var=False, alternative="greater")
        below = ttest_ind(np.subtract(a, bound), b, equal_var=False, alternative="less")
        assert (sample.p_above(bound), sample.p_below(bound)) == pytest.approx((above.pvalue, below.pvalue))
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.99)
    assert sample.interval(0.01) == pytest.approx((low, high))
    assert (sample.paired, sample.n, sample.mean) == (False, min(n, its_n), pytest.approx(np.mean(a) - np.mean(b)))
    assert sample.less(0.3).interval(0.01) == pytest.approx((low - 0.3, high - 0.3))
    assert sample.first(3).mean == pytest.approx(np.mean(a[:3]) - np.mean(b[:3])) and sample.heaviest() is None


def test_arms_that_share_their_first_seed_stay_paired_within_a_sum_over_others():
    """A difference of differences of two pairs, each with seeds of its own: what a seed shares cancels within each pair."""
    random = np.random.default_rng(0)
    values = {}
    for first in (0, 50):
        luck = random.normal(0, 100, 6)
        for arm in "ab":
            values[f"{arm}{first}"] = {first + i: luck[i] + x for i, x in enumerate(random.normal(0, 1, 6))}
    weights = {"a0": 1.0, "b0": -1.0, "a50": -1.0, "b50": 1.0}
    sample = stats.weighted(values, weights, first_seeds={"a50": 50, "b50": 50})
    one = stats.paired(values["a0"], values["b0"])
    other = stats.paired(values["a50"], values["b50"])
    assert sample.sd < 5 and not sample.paired
    assert sample.interval() == pytest.approx(stats.less(one, other, independent=True).interval())
    assert stats.weighted(values, {"a0": 1.0, "b0": -1.0}).paired


def test_few_seeds_and_no_spread_decide_nothing_without_pairing_either():
    few = stats.weighted({"a": {0: 1.0, 1: 2.0}, "b": {9: 0.0, 10: 0.1}}, {"a": 1, "b": -1}, first_seeds={"b": 9})
    constant = stats.weighted(
        {"a": dict.fromkeys(range(4), 1.0), "b": dict.fromkeys(range(9, 13), 0.5)}, {"a": 1, "b": -1}, first_seeds={"b": 9}
    )
    for sample in (few, constant):
        assert sample.p_above(0) == sample.p_below(9) == 1.0 and sample.interval() is None
    assert paired.untestable(few) == paired.FEW and paired.untestable(constant) == paired.CONSTANT


def test_exact_numbers_have_no_seeds_and_are_compared_as_ever():
    measured = Measured(Metric(), {"a": {0: 2.0}, "b": {0: 1.5}}, exact=True, first_seeds={"b": 100})
    assert paired.difference(measured, "a", "b").interval() == (0.5, 0.5)


def test_the_seeds_that_would_decide_are_those_of_two_independent_samples():
    random = np.random.default_rng(3)
    a, b = (random.normal(0, 1, 6) for _ in range(2))
    sample = stats.weighted(
        {"a": dict(enumerate(a)), "b": {9 + i: x for i, x in enumerate(b)}}, {"a": 1, "b": -1}, first_seeds={"b": 9}
    )
    needed = stats.seeds_to_pass(sample.less(sample.mean - 1.5), 0.0, math.inf, "worse", 0.025)
    n = int(needed.seeds)
    sds = [np.std(each, ddof=1) for each in (a, b)]
    one, other = (random.normal(mean, sd, (4000, n)) for mean, sd in zip((1.5, 0.0), sds, strict=True))
    found = ttest_ind(one, other, axis=1, equal_var=False, alternative="greater").pvalue <= 0.025
    assert found.mean() == pytest.approx(0.8, abs=0.06) and needed.low < n < needed.high


def test_the_second_arm_has_runs_of_its_own_with_its_seeds_in_their_records(plan_study, aa_data, console):
    planned = plan_study(aa_data)
    assert [(job.arm, job.seed) for job in planned.jobs()][:4] == [("base", 0), ("again", 100), ("worse", 0), ("base", 1)]
    assert planned.arms[0].identities == planned.arms[1].identities and not planned.remarks()
    assert run_study(planned, 1, console, fakes.prepare).complete
    record = StudyRecord.read(planned.folder)
    assert list(record.arms["again"].runs) == ["100", "101", "102", "103"] == [str(seed) for seed in record.seeds_of("again")]
    runs = outcomes.runs_of(record, planned.folder)
    assert {key: run.seed for key, run in runs.items()} == {(arm, seed): seed for arm, seed in runs}
    assert len({*record.arms["again"].runs.values(), *record.arms["base"].runs.values()}) == 8 and not record.helpers
    assert "again-" in record.arms["again"].runs["100"]
    cells = status.cells(planned.folder, record)
    assert [seed for arm, seed in cells if arm == "again"] == [f"seed {seed}" for seed in range(100, 104)]
    assert {cell.state for cell in cells.values()} == {"finished"}
    console.file.truncate(0)
    assert run_study(plan_study(aa_data), 1, console, fakes.prepare).complete
    assert "all 12 runs are finished already" in console.file.getvalue()


def test_its_verdict_is_that_of_an_unpaired_test_and_the_control_stays_paired(plan_study, aa_data, console):
    planned = plan_study(aa_data)
    run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    runs = outcomes.runs_of(record, planned.folder)
    verdicts = judge.judge(record, runs)["quality"].verdicts
    losses = {arm: [runs[arm, seed].metrics["report/loss"] for seed in record.seeds_of(arm)] for arm in record.arms}
    again = verdicts["again"]
    expected = ttest_ind(losses["again"], losses["base"], equal_var=False)
    assert again.p == pytest.approx(expected.pvalue) and again.n == 4
    assert again.interval == pytest.approx(tuple(expected.confidence_interval(1 - again.level)))
    assert verdicts["worse"].word == "worse" and verdicts["worse"].difference == pytest.approx(
        np.subtract(losses["worse"], losses["base"]).mean()
    )
    assert [look.words["quality"]["again"] for look in record.looks] == [again.word]


def test_seeds_until_decided_go_on_from_the_first(plan_study, aa_data, console):
    aa_data["seeds"] = {"min": 3, "max": 5, "until": "decided"}
    aa_data["claims"]["quality"]["margin"] = 0.001
    planned = plan_study(aa_data)
    run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert record.seeds_of("again") == [100, 101, 102, 103, 104] and record.seeds_of("base") == [0, 1, 2, 3, 4]
    assert [look.seeds for look in record.looks] == [3, 5]


def test_runs_that_fail_are_counted_beside_those_in_the_same_place(plan_study, aa_data, console):
    aa_data["arms"]["again"]["optimizer.lr"] = fakes.UNSTABLE  # fails with the seeds 101 and 104
    planned = plan_study(aa_data | {"seeds": 5})
    run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    verdict = judge.judge(record, outcomes.runs_of(record, planned.folder))["quality"].verdicts["again"]
    assert verdict.word == "unstable" and verdict.reason.startswith("failed in 2 of 5 seeds")


def test_a_helper_run_has_the_seeds_of_the_arm_that_needs_it(plan_study, aa_data):
    aa_data["runs"] = {"start": {"train.steps": 1}}
    aa_data["arms"]["again"]["init_from"] = {"run": "start"}
    planned = plan_study(aa_data)
    assert [(job.arm, job.seed) for job in planned.jobs()][:3] == [("base", 0), ("start", 100), ("again", 100)]
    assert list(planned.record().helpers["start"]) == ["100", "101", "102", "103"]


def test_the_preview_counts_helper_runs_with_the_seeds_of_the_arm(aa_data):
    aa_data["runs"] = {"start": {"train.steps": 1}}
    aa_data["arms"]["again"]["init_from"] = {"run": "start"}
    spec, arms = study.check(document.node(aa_data))
    data = show.preview("asked", None, spec, arms)
    assert data["helpers"]["start"]["seeds"] == [100, 101, 102, 103] and data["total"]["runs"] == 16


def test_another_first_seed_is_another_plan_and_no_other_experiment(plan_study, aa_data, console):
    planned = plan_study(aa_data)
    run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    moved = aa_data | {"arms": {**aa_data["arms"], "again": {"optimizer.lr": fakes.BASE, "first_seed": 200}}}
    spec, arms = study.check(document.node(moved))
    changed = edited.since(planned.folder, record, spec, arms)
    assert changed.changed == {"again": "first_seed: 100 -> 200"} and [*changed.seeds["again"]] == [200, 201, 202, 203]
    looks, earlier = looking.history(plan_study(moved), plan_study(moved).record())
    assert not looks and earlier[0].why == "the arms"
    assert plan_study(moved).arms[1].identities == planned.arms[1].identities


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"arms.again.first_seed": 3}, "arms.again.first_seed", "its seeds 3 to 6 overlap those of 'base', 0 to 3"),
        ({"arms.again.first_seed": 3}, "arms.again.first_seed", "expected 0, or at least 4"),
        ({"arms.worse": {"first_seed": 97}}, "arms.worse.first_seed", "overlap those of 'again', 100 to 103"),
        ({"arms.again.first_seed": -1}, "arms.again.first_seed", "-1; expected a whole number from 0"),
        ({"arms.again.first_seed": True}, "arms.again.first_seed", "true; expected a whole number"),
        ({"arms.again.first_seed": "ten"}, "arms.again.first_seed", "expected a whole number"),
        ({"seeds": 101}, "arms.again.first_seed", "its seeds 100 to 200 overlap those of 'base', 0 to 100"),
        ({"runs": {"start": {"first_seed": 5}}}, "runs.start.first_seed", "a helper run has the seeds of the runs that need it"),
        (
            {"tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, "first_seed": 102}},
            "tune.first_seed",
            "102 is a reported seed",
        ),
        (
            {
                "claims": {
                    "law": {
                        "type": "power_law",
                        "groups": {"all": ["base", "again", "worse"]},
                        "exponent": -0.1,
                        "over": "cost/parameters",
                    }
                }
            },
            "claims.law.groups.all",
            "its arms have the first seeds 0 and 100",
        ),
    ],
)
def test_first_seeds_that_cannot_be_are_refused_at_their_line(aa_data, change, key, said):
    node = document.overridden(document.node(aa_data), document.node(change))
    with pytest.raises(SpecError) as caught:
        study.check(node)
    assert said in str(caught.value) and ".".join(map(str, caught.value.path)) == key


def test_the_preview_says_what_is_not_paired_and_what_such_a_plan_finds(aa_data, console, tmp_path):
    aa_data["claims"]["quality"]["known_worse"] = []
    spec, arms = study.check(document.node(aa_data))
    data = show.preview("asked", None, spec, arms, tmp_path, paired_sd=0.05)
    assert not [remark for remark in data["remarks"] if "again" in remark]
    found = data["power"]["unpaired"]["found"]
    degrees, critical = 2 * 3, t.isf(0.05 / 2 / 2, 2 * 3)
    for each in found:  # sd is that of a difference of two runs; Welch's degrees of freedom are somewhat fewer
        most = nct.sf(critical, degrees, each["sd"] * 2)
        assert most - 0.08 < each["chance"] < most + 0.02
        paired_chance = next(other["chance"] for other in data["power"]["found"] if other["sd"] == each["sd"])
        assert each["chance"] > paired_chance
    foreseen.printed(data["power"], lambda text: console.print(text, soft_wrap=True), console)
    out = console.file.getvalue()
    assert "paired sd" in out and "compared without pairing" in out


def test_a_plan_without_pairing_keeps_its_level():
    """An effect of nothing is found with the chance of the level, two-sided: half of it on the right side."""
    for looks in ((3,), (5,), (12,), (5, 8, 12)):
        assert power(looks, 1, (1e-9,), paired=False).found[1e-9] <= 0.025 + 0.004


def test_false_words_of_arms_with_other_seeds_keep_their_level():
    picked = [
        each for each in scenarios.unpaired() if each.at_most and each.column in ("n = 3", "5 to 12") and "4 asked" in each.name
    ]
    for cell in simulation.simulate(200, picked, processes=1):
        assert cell.value < 0.05 + 3.5 * (0.05 * 0.95 / cell.studies) ** 0.5


def test_two_studies_that_differ_in_a_first_seed_differ(aa_data, tmp_path):
    from sweeps import differing

    other = document.overridden(document.node(aa_data), document.node({"arms.again.first_seed": 300}))
    a, b = (differing._planned("x", node, None) for node in (document.node(aa_data), other))
    assert differing.differences(a, b) == ["first_seeds.again: 100 -> 300"]


def test_a_count_is_compared_across_arms_with_other_seeds():
    from sweeps.stats import weighted

    sample = weighted({"a": {0: 1.0, 1: 1.0}, "b": {100: 2.0, 101: 2.0}}, {"b": 1.0, "a": -1.0}, True, {"b": 100})
    assert sample.n == 2 and sample.mean == 1.0 and sample.exact


def test_sizes_of_a_ladder_need_the_same_seeds():
    source = document.load("griffin/scaling", "sweeps")
    with pytest.raises(SpecError, match="expected the same first seed"):
        split(document.overridden(source, document.node({"arms.griffin m": {"first_seed": 100}})))
