"""What a plan can find is known before anything is trained, and is what it then finds."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import sweeps_fakes
from scipy.stats import nct, t
from test_study_plan import environment, written

from experiments.record import RunRecord
from sweeps import foreseen
from sweeps.looks import looks
from sweeps.power import power


@pytest.mark.parametrize("n", [3, 5, 8, 12])
@pytest.mark.parametrize("questions", [1, 4])
def test_a_fixed_plan_has_the_power_of_a_t_test(n, questions):
    found = power((n,), questions).found
    for effect, chance in found.items():
        critical = t.isf(0.05 / questions / 2, n - 1)
        exact = nct.sf(critical, n - 1, effect * math.sqrt(n))
        assert chance == pytest.approx(exact, abs=0.02), effect


def test_equality_has_the_power_of_two_one_sided_tests():
    """Margin 2 %, paired sd 1.2 %, three asked: statistics.md's reference."""
    for n, chance in ((5, 0.49), (8, 0.91), (12, 0.98)):
        assert power((n,), 3, (), margin=0.02 / 0.012).same == pytest.approx(chance, abs=0.03)


def test_a_sequential_plan_finds_what_the_rule_promises():
    plan = power(looks(3, 12), 4, (1.0, 2.0, 5.83), margin=0.02 / 0.012)
    assert [plan.found[effect] for effect in (1.0, 2.0, 5.83)] == pytest.approx([0.63, 0.995, 1.0], abs=0.02)
    assert [plan.seeds[effect] for effect in (1.0, 2.0, 5.83)] == pytest.approx([11.3, 8.5, 5.3], abs=0.15)
    assert (plan.same, plan.same_seeds) == (pytest.approx(0.98, abs=0.02), pytest.approx(9.6, abs=0.15))


def test_more_seeds_and_fewer_questions_find_more():
    counts = (3, 5, 8, 12, 20, 40)
    for effect in (1.0, 2.0):
        by_seeds = [power((n,), 3, (effect,)).found[effect] for n in counts]
        assert by_seeds == sorted(by_seeds)
        by_questions = [power((8,), m, (effect,)).found[effect] for m in (8, 4, 2, 1)]
        assert by_questions == sorted(by_questions)
    smallest = [power((n,), 3).smallest for n in counts]
    assert smallest == sorted(smallest, reverse=True)


@pytest.mark.parametrize("plan", [(5,), (12,), (5, 8, 12), (300,)])
def test_the_smallest_effect_is_found_with_80_percent(plan):
    there = power(plan, 3)
    assert power(plan, 3, (there.smallest,)).found[there.smallest] == pytest.approx(0.8, abs=0.01)


def test_a_plan_that_decides_nothing_finds_nothing():
    there = power((2,), 1, margin=100.0)
    assert set(there.found.values()) == {0.0} and there.smallest == math.inf and there.same == 0.0


def finished(study, sd):
    """Finished runs of every arm of a StudyPlan, whose differences from the baseline have the spread `sd`."""
    study.folder.mkdir(parents=True)
    study.record().write(study.folder)
    random = np.random.default_rng(3)
    for job in study.jobs():
        sweeps_fakes.finish(job)
        loss = 2.0 + 0.1 * job.seed + (sd * float(random.choice([-1, 1])) if job.arm != "1:1" else 0.0)
        RunRecord.read(job.folder).model_copy(update={"metrics": {"report/loss": loss}}).write(job.folder)


def test_the_spread_comes_from_finished_runs_of_this_scale_first(plan_study, study_data, tmp_path):
    data = study_data | {"seeds": 5}
    find = lambda scale: foreseen.spread(tmp_path / "runs", "asked", scale, "report/loss")  # noqa: E731
    assert find("small") is None
    finished(plan_study(data, scale="laptop"), 0.02)
    other = find("small")
    assert 0.01 < other.sd < 0.03 and "at the scale laptop" in other.source and "5 seeds" in other.source
    finished(plan_study(data, scale="small"), 0.005)
    here = find("small")
    assert here.sd < 0.01 and "at the scale" not in here.source


@pytest.mark.parametrize("known_worse", [[], ["all local"]])
def test_the_preview_says_what_the_plan_can_find(plan_study, study_data, console, known_worse, tmp_path):
    claim = {"type": "equivalent", "metric": "report/loss", "margin": 0.02, "known_worse": known_worse}
    plan = {"min": 5, "max": 12, "until": "decided"}
    planned = plan_study(
        study_data | {"seeds": plan, "arms": {**study_data["arms"], "one": {"model.layers": 1}}, "claims": {"quality": claim}}
    )
    arms = [each.arm for each in planned.arms]
    there = foreseen.foreseen("asked", None, planned.spec, arms, tmp_path / "runs", 0.012)
    assert there["looks"] == [5, 8, 12] and there["questions"] == 2 - len(known_worse)
    assert json.loads(json.dumps(there, allow_nan=False)) == there
    (same,) = there["same"]
    assert same["chance"] > 0.9 and same["control"] == bool(known_worse)
    assert there["found"][1]["effect"] == pytest.approx(math.expm1(0.024))
    foreseen.printed(there, lambda text: console.print(text, markup=False), console)
    text = console.file.getvalue().replace("\xa0", " ")
    assert "read at 5, 8 and 12 seeds" in text and "paired sd of report/loss: 1.20 %, as given" in text
    assert ("names no arm known to be worse" in text) == (not known_worse)
    unknown = foreseen.foreseen("asked", None, planned.spec, arms, tmp_path / "runs")
    assert unknown["paired_sd"] is None and unknown["smallest"]["effect"] is None and unknown["found"][0]["chance"] > 0
    foreseen.printed(unknown, lambda text: console.print(text, markup=False), console)
    assert "--paired-sd" in console.file.getvalue()


def test_claims_on_costs_alone_need_no_seeds(plan_study, study_data, tmp_path):
    claim = {"type": "value", "metric": "cost/parameters", "arm": "1:1", "value": 1000, "within": 0.2}
    planned = plan_study(study_data | {"claims": {"size": claim}})
    assert foreseen.foreseen("asked", None, planned.spec, [each.arm for each in planned.arms], tmp_path) is None


def test_show_prints_the_power_before_anything_is_trained(tmp_path, study_data):
    path = written(tmp_path, study_data | {"seeds": 5})
    command = [sys.executable, "-m", "sweeps", "show", str(path), "--paired-sd", "0.012", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment())
    there = json.loads(done.stdout)["power"]
    assert there["looks"] == [5] and there["paired_sd"] == 0.012 and there["found"][2]["chance"] > 0.9
    assert [each.name for each in tmp_path.iterdir()] == ["study.yaml"]
