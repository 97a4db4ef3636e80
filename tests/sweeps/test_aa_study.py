"""The shipped studies `calibration/aa` and `gemma/memorization` are what they say."""

from itertools import combinations

import pytest

from arch import document
from experiments.metrics import is_cost
from sweeps import first_seeds, judge, study
from sweeps.metrics import declared
from sweeps.spec import split


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_the_arms_of_aa_are_one_experiment_on_disjoint_seeds_beside_a_paired_control(scale):
    spec, node, _ = split(document.load("calibration/aa", "sweeps"), scale)
    *same, control = spec.arms
    assert all(first_seeds.without(node.at(("arms", arm))).value == {} for arm in same) and len(same) == 8
    assert not any(first_seeds.overlap(spec.seeds_of(one), spec.seeds_of(other)) for one, other in combinations(same, 2))
    assert spec.controls == {control} and spec.seeds_of(control) == spec.seeds_of(same[0])
    asked = judge.questions(spec.claims, list(spec.arms))
    assert [each.subject for each in asked["same"]] == same[1:]


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_every_claim_of_memorization_reads_what_its_runs_measure(scale):
    spec, arms = study.check(document.load("gemma/memorization", "sweeps"), scale)
    claimed = {name for names in judge.metrics_of(spec).values() for name in names}
    for arm in arms:
        assert {name for name in claimed if not is_cost(name)} <= set(declared(arm.spec))
        planted = arm.spec.data.source["repetitions"]
        assert list(arm.spec.evaluate.report["memorization"]["repetitions"]) == [0, *planted]
    small, large = arms
    assert large.spec.model.dim > small.spec.model.dim
