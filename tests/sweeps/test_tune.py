"""Tuning uses the select split and separate seeds, its trials are never reported, and it resumes."""

import pytest
import sweeps_fakes as fakes
from optuna.trial import TrialState

from arch.errors import SpecError
from sweeps import folders, space
from sweeps.job import Outcome
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.spec import Range, TuneSpec
from sweeps.tune import Tuner

GRID = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1, "points": 3}}}


@pytest.fixture
def tuned_study(plan_study, study_data):
    """tuned_study(**tune) gives a StudyPlan with tuning and creates its folder."""

    def made(name="asked", **tune):
        planned = plan_study(study_data | {"tune": {**GRID, **tune}}, name)
        planned.folder.mkdir(parents=True, exist_ok=True)
        return planned

    return made


def done(tuner, job, status="finished", **record):
    """Tell a tuner that a job ended, with the record that the fake training would write."""
    if status == "finished":
        record["metrics"] = {"select/loss": abs(job.plan.spec.optimizer["lr"] - 2e-2)}
    kept = fakes.record(job.plan, job.seed, status, **record) if status != "lost" else None
    if kept:
        job.folder.mkdir(parents=True, exist_ok=True)
        kept.write(job.folder)
    tuner.told(Outcome(job, status, kept))


def jobs_of(tuner):
    return list(iter(tuner.take, None))


def test_each_arm_runs_its_best_values_and_no_trial_is_reported(tuned_study, console):
    result = run_study(tuned_study(seeds=2), 2, console, fakes.prepare)
    record = StudyRecord.read(result.study.folder)
    assert result.complete and not record.edges
    assert [arm.tuned for arm in record.arms.values()] == [{"optimizer.lr": pytest.approx(1e-2)}] * 2
    assert [outcome.job.plan.spec.optimizer["lr"] for outcome in result.outcomes] == [pytest.approx(1e-2)] * 4
    assert len(record.trials) == 2 * 3 * 2 and {trial.seed for trial in record.trials} == {1000, 1001}
    trials = {(record_folder(result, trial.run)) for trial in record.trials}
    reported = {record_folder(result, run) for arm in record.arms.values() for run in arm.runs.values()}
    assert not trials & reported and all("/tune/" in str(folder) for folder in trials)
    assert all((folder / "record.json").exists() for folder in trials | reported)
    assert not any(seed in (1000, 1001) for outcome in result.outcomes for seed in [outcome.job.seed])


def record_folder(result, run):
    return (result.study.folder / run).resolve()


def test_a_second_start_runs_no_trial_again(tuned_study, console, monkeypatch):
    first = run_study(tuned_study(), 2, console, fakes.prepare)
    monkeypatch.setattr("sweeps.run.Pool", None)  # with nothing to do, no pool is made
    second = run_study(tuned_study(), None, console, fakes.prepare)
    assert second.trials == first.trials and second.complete
    assert StudyRecord.read(second.study.folder) == StudyRecord.read(first.study.folder)


def test_trials_are_reused_by_trials_of_other_studies_only(tuned_study):
    one, two = tuned_study("one"), tuned_study("two")
    job = Tuner(one, one.arms[0]).take()
    fakes.finish(job)
    assert folders.Finished(one.runs).folder(job.plan.identity, job.seed, job.folder / "x") is None
    assert [each.plan.identity for each in jobs_of(Tuner(two, two.arms[0]))].count(job.plan.identity) == 0


def test_a_failed_trial_is_kept_and_not_chosen(tuned_study):
    planned = tuned_study()
    tuner = Tuner(planned, planned.arms[0])
    low, middle, high = jobs_of(tuner)
    done(tuner, low)
    done(tuner, middle, "failed", failure=fakes.Failure(step=3, error="NonFinite", message="nan"))
    done(tuner, high)
    assert [trial.state for trial in tuner.records()] == ["finished", "failed", "finished"]
    assert tuner.best() == {"optimizer.lr": pytest.approx(1e-3)}
    assert jobs_of(Tuner(planned, planned.arms[0])) == []


def test_what_the_machine_failed_is_tried_again_at_the_next_start_only(tuned_study):
    planned = tuned_study()
    tuner = Tuner(planned, planned.arms[0])
    low, middle, high = jobs_of(tuner)
    done(tuner, low)
    done(tuner, middle, "lost")
    done(tuner, high, "failed", failure=fakes.Failure(step=3, error="OSError", message="disk full"))
    assert tuner.take() is None
    again = Tuner(planned, planned.arms[0])
    jobs = jobs_of(again)
    assert [job.folder for job in jobs] == [middle.folder, high.folder]
    for job in jobs:
        done(again, job)
    assert jobs_of(Tuner(planned, planned.arms[0])) == []
    assert again.best() == {"optimizer.lr": pytest.approx(1e-2)}


@pytest.mark.parametrize("tune", [{}, {"sampler": "tpe", "trials": 3}])
def test_a_search_that_was_killed_goes_on_where_it_was(tuned_study, tune):
    planned = tuned_study(**tune)
    killed = Tuner(planned, planned.arms[0])
    first, second = killed.take(), killed.take()
    done(killed, first)
    done(killed, second, "interrupted")
    killed.search.ask()  # a trial without values
    left = Tuner(planned, planned.arms[0])
    assert left.runs_left() == 2
    jobs = jobs_of(left)
    assert jobs[0].folder == second.folder and len(jobs) == 2
    for job in jobs:
        done(left, job)
    finished = [trial for trial in left.search.trials if trial.state == TrialState.COMPLETE]
    assert len(finished) == 3 == len({trial.params["optimizer.lr"] for trial in finished})
    assert left.runs_left() == 0
    assert left.take() is None and Tuner(planned, planned.arms[0]).take() is None


def test_tpe_goes_on_when_more_trials_are_allowed(tuned_study):
    few = tuned_study(sampler="tpe", trials=2)
    tuner = Tuner(few, few.arms[0])
    for job in jobs_of(tuner):
        done(tuner, job)
    more = tuned_study(sampler="tpe", trials=3)
    assert len(jobs_of(Tuner(more, more.arms[0]))) == 1


def test_an_arm_without_a_finished_trial_has_no_runs_and_the_others_go_on(plan_study, study_data, console):
    narrow = {"space": {"optimizer.lr": {"low": fakes.FAILS, "high": 1e-1, "points": 2}}}
    study_data["arms"]["all fail"] = {"optimizer.weight_decay": 0.5}
    planned = plan_study(study_data | {"tune": narrow, "seeds": 1})
    one = planned.arms[-1]
    for job in jobs_of(tuner := Tuner(made(planned), one)):
        done(tuner, job, "failed", failure=fakes.Failure(step=1, error="NonFinite", message="nan"))
    result = run_study(planned, 2, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert result.untuned == ["all fail"] and not result.complete
    assert record.arms["all fail"].runs == {} and len(record.arms["1:1"].runs) == 1
    assert {trial.state for trial in record.trials if trial.arm == "all fail"} == {"failed"}


def made(planned):
    planned.folder.mkdir(parents=True)
    return planned


def test_whole_numbers_stay_whole(plan_study, study_data):
    tune = {"space": {"model.layers": {"low": 1, "high": 4, "points": 5}, "optimizer.lr": {"low": 1e-3, "high": 1e-2}}}
    planned = made(plan_study(study_data | {"tune": tune}))
    layers = {job.plan.spec.model.layers for job in jobs_of(Tuner(planned, planned.arms[0]))}
    assert layers == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("value", "sampler", "said"),
    [
        (1e-3, "grid", "lowest"),
        (1e-1, "grid", "highest"),
        (1e-2, "grid", None),
        (1.1e-3, "tpe", "lowest"),
        (9.5e-2, "tpe", "highest"),
        (3e-3, "tpe", None),
    ],
)
def test_a_best_value_at_an_end_of_its_range_is_said(value, sampler, said):
    trials = 9 if sampler == "tpe" else None
    tune = TuneSpec(space={"optimizer.lr": Range(low=1e-3, high=1e-1)}, sampler=sampler, trials=trials)
    lines = space.edges(tune, "5:1", {"optimizer.lr": value})
    assert len(lines) == (said is not None)
    assert said is None or (said in lines[0] and "5:1" in lines[0] and "optimizer.lr" in lines[0])


OWN_OBJECTIVE = """
from arch.contracts import Metric
from arch.registry import objective
from arch.spec import Spec


@objective
class Tags:
    class Config(Spec):
        pass

    metrics = {"loss": Metric(), "accuracy": Metric(better="higher"), "width": Metric(better="neither")}
"""


def test_the_best_trial_has_the_highest_accuracy(tuned_study, study_data, tmp_path, monkeypatch):
    (tmp_path / "tags_objective.py").write_text(OWN_OBJECTIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    study_data["objective"] = {"type": "tags_objective:Tags"}
    for metric, reason in {"acuracy": "did you mean 'select/accuracy'", "width": "only shown"}.items():
        with pytest.raises(SpecError, match=reason):
            tuned_study(metric=f"select/{metric}")
    study = tuned_study(metric="select/accuracy")
    tuner = Tuner(study, study.arms[0])
    for job in jobs_of(tuner):
        accuracy = -abs(job.plan.spec.optimizer["lr"] - 1e-1)
        tuner.told(Outcome(job, "finished", fakes.record(job.plan, job.seed, "finished", metrics={"select/accuracy": accuracy})))
    assert tuner.best() == {"optimizer.lr": pytest.approx(1e-1)}
