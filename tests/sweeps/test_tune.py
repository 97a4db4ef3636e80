"""Tuning uses the select split and separate seeds, its trials are never reported, and it resumes."""

import dataclasses
import math

import pytest
import sweeps_fakes as fakes
import torch
from optuna.trial import TrialState

from arch import document
from arch.errors import SpecError
from sweeps import folders, show, space, study
from sweeps.choice import Choice
from sweeps.job import Outcome
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.spec import Range, TuneSpec
from sweeps.tune import Tuner

GRID = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1, "points": 3}}}
# The vertex of the losses abs(lr - 2e-2) at 1e-3, 1e-2 and 1e-1.
VERTEX = 4.11e-3


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
    assert [arm.tuned for arm in record.arms.values()] == [{"optimizer.lr": [VERTEX, 4.23e-3]}] * 2
    assert [outcome.job.plan.spec.optimizer["lr"] for outcome in result.outcomes] == [VERTEX, VERTEX, 4.23e-3, 4.23e-3]
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
    monkeypatch.setattr("sweeps.workers.Pool", None)  # with nothing to do, no pool is made
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
    assert tuner.chosen().values == [{"optimizer.lr": pytest.approx(1e-3)}]
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
    assert again.chosen().values == [{"optimizer.lr": VERTEX}]


@pytest.mark.parametrize("tune", [{}, {"sampler": "tpe", "trials": 3}])
def test_a_search_that_was_killed_goes_on_where_it_was(tuned_study, tune):
    planned = tuned_study(**tune)
    killed = Tuner(planned, planned.arms[0])
    first, second = killed.take(), killed.take()
    done(killed, first)
    done(killed, second, "interrupted")
    killed.optuna.ask()  # a trial without values
    left = Tuner(planned, planned.arms[0])
    assert left.runs_left() == 2
    jobs = jobs_of(left)
    assert jobs[0].folder == second.folder and len(jobs) == 2
    for job in jobs:
        done(left, job)
    finished = [trial for trial in left.optuna.trials if trial.state == TrialState.COMPLETE]
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
    lines = space.edges(tune, "5:1", [{"optimizer.lr": value}])
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
    planned = tuned_study(metric="select/accuracy")
    tuner = Tuner(planned, planned.arms[0])
    for job in jobs_of(tuner):
        accuracy = -abs(job.plan.spec.optimizer["lr"] - 1e-1)
        tuner.told(Outcome(job, "finished", fakes.record(job.plan, job.seed, "finished", metrics={"select/accuracy": accuracy})))
    assert tuner.chosen().values == [{"optimizer.lr": pytest.approx(1e-1)}]


def loss_of(job):
    """A parabola in log lr; the best rate is 8e-3 for tuning seed 1000, and 1.3 times higher for each further seed."""
    return (math.log(job.plan.spec.optimizer["lr"]) - math.log(8e-3 * 1.3 ** (job.seed - 1000))) ** 2


def search(planned, fails=(), loss=loss_of):
    """A Tuner of the first arm whose grid is done. fails: (tuning seed, index of the rate) of runs that fail."""
    tuner = Tuner(planned, planned.arms[0])
    jobs = jobs_of(tuner)
    rates = sorted({job.plan.spec.optimizer["lr"] for job in jobs})
    for job in jobs:
        if (job.seed, rates.index(job.plan.spec.optimizer["lr"])) in fails:
            done(tuner, job, "failed", failure=fakes.Failure(step=1, error="NonFinite", message="nan"))
        else:
            record = fakes.record(job.plan, job.seed, "finished", metrics={"select/loss": loss(job)})
            tuner.told(Outcome(job, "finished", record))
    return tuner


FIVE = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1}}}


def test_reported_seeds_take_turns_among_the_tuning_seeds(tuned_study):
    planned = tuned_study(**FIVE, seeds=2)
    choice = search(planned).chosen()
    assert [values["optimizer.lr"] for values in choice.values] == pytest.approx([8e-3, 1.04e-2], rel=6e-3)
    assert not choice.notes
    alike = dataclasses.replace(choice, values=choice.values[:1] * 2)
    both = study.tuned(planned, {"1:1": choice, "all local": alike})
    both = dataclasses.replace(both, spec=both.spec.model_copy(update={"seeds": 5}))
    rates = {(job.arm, job.seed): job.plan.spec.optimizer["lr"] for job in both.jobs()}
    first, second = (values["optimizer.lr"] for values in choice.values)
    assert [rates["1:1", seed] for seed in range(5)] == [first, second, first, second, first]
    assert [rates["all local", seed] for seed in range(5)] == [first] * 5

    record = StudyRecord.parse(both.record().dump())
    arms = record.arms
    assert arms["1:1"].tuned == {"optimizer.lr": [first, second]} and arms["all local"].tuned == {"optimizer.lr": [first]}
    assert len(set(arms["1:1"].identities)) == 2 and len(arms["all local"].identities) == 1
    for label, arm in arms.items():
        for seed in range(5):
            job = next(job for job in both.jobs() if (job.arm, job.seed) == (label, seed))
            assert arm.identity_of(seed) == job.plan.identity
            assert arm.tuned_of(seed) == {"optimizer.lr": rates[label, seed]}
            assert (planned.folder / arm.runs[str(seed)]).resolve() == job.folder.resolve()


def test_a_tuning_seed_that_failed_borrows_and_says_so(tuned_study):
    planned = tuned_study(**FIVE, seeds=3)
    tuner = search(planned, fails={(1002, index) for index in range(5)})
    choice = tuner.chosen("an arm")
    rates = [values["optimizer.lr"] for values in choice.values]
    assert rates == pytest.approx([8e-3, 1.04e-2, math.sqrt(8e-3 * 1.04e-2)], rel=6e-3)
    (note,) = choice.notes
    assert note.startswith("arm 'an arm'") and "tuning seed 1002" in note and "other tuning seeds" in note
    assert study.tuned(planned, {"1:1": choice, "all local": Choice()}).record({"1:1": 2}).choices == [note]


def test_beside_a_failed_run_the_grid_point_is_used_and_said(tuned_study):
    choice = search(tuned_study(**FIVE), fails={(1000, 3)}).chosen()
    assert choice.values == [{"optimizer.lr": pytest.approx(1e-2)}]
    assert "next to the best optimizer.lr = 0.01," in choice.notes[0]


def test_a_vertex_that_cannot_be_built_gives_way_to_the_grid_point(plan_study, study_data):
    key = "model.blocks.local.mixer.heads"
    tune = {"space": {key: {"low": 2, "high": 8, "points": 3}}}
    two = {"arms": {"two": {"model.blocks.local.mixer.kv_heads": 2}, "one": {}}}
    planned = made(plan_study(study_data | two | {"tune": tune}))

    def chosen(arm):
        tuner = Tuner(planned, arm)
        for job in jobs_of(tuner):
            loss = abs(math.log(job.plan.spec.model.blocks["local"].mixer["heads"] / 5))
            tuner.told(Outcome(job, "finished", fakes.record(job.plan, job.seed, "finished", metrics={"select/loss": loss})))
        return tuner.chosen()

    two, one = map(chosen, planned.arms)
    assert one.values == [{key: 5}] and not one.notes
    assert two.values == [{key: 4}] and f"{key} = 5 cannot be built" in two.notes[0], "2 key heads do not divide 5"


def test_records_from_before_seeds_had_their_own_values_still_open(tuned_study):
    planned = tuned_study()
    data = study.tuned(planned, {label: Choice([{"optimizer.lr": 1e-2}]) for label in ("1:1", "all local")}).record().dump()
    for arm in data["arms"].values():
        arm["identity"] = arm.pop("identities")[0]
        arm["tuned"] = {key: values[0] for key, values in arm["tuned"].items()}
    old = StudyRecord.parse(data).arms["1:1"]
    assert old.tuned_of(3) == {"optimizer.lr": 1e-2} and old.identity_of(3) == old.identities[0]


@pytest.mark.parametrize(
    ("key", "span", "value", "flagged"),
    [
        ("schedule.warmup", {"low": 0, "high": 0.4, "log": False}, 0.0, False),
        ("schedule.warmup", {"low": 0, "high": 0.4, "log": False}, 0.4, True),
        ("schedule.final", {"low": 0.5, "high": 1.0}, 1.0, False),
        ("schedule.final", {"low": 0.5, "high": 1.0}, 0.5, True),
        ("model.layers", {"low": 1, "high": 4}, 1, False),
        ("model.layers", {"low": 1, "high": 4}, 4, True),
        ("model.blocks.local.mixer.heads", {"low": 2, "high": 4}, 2, True),
        ("optimizer.lr", {"low": 1e-3, "high": 1e-1}, 1e-3, True),
    ],
)
def test_an_end_that_the_key_itself_cannot_pass_is_no_edge(plan_study, study_data, key, span, value, flagged):
    planned = plan_study(study_data | {"tune": {"space": {key: span}}})
    tune, arm = planned.spec.tune, planned.arms[0].arm
    torch.set_flush_denormal(True)  # as training does, in the process of whoever asks
    try:
        bounds = space.bounds(tune, arm, [{key: value}])
    finally:
        torch.set_flush_denormal(False)
    assert bounds == ({} if flagged else {key: [value]})
    assert len(space.edges(tune, "1:1", [{key: value}], bounds)) == flagged


def test_an_edge_says_how_many_tuning_seeds_met_it():
    tune = TuneSpec(space={"optimizer.lr": Range(low=1e-3, high=1e-1)}, seeds=3)
    (line,) = space.edges(tune, "a", [{"optimizer.lr": value} for value in (1e-1, 2e-2, 1e-1)])
    assert "2 of 3" in line and "highest" in line


def test_every_arm_tries_the_same_points_with_the_same_seeds(tuned_study):
    planned = tuned_study(**FIVE, seeds=2)
    tried = [sorted((job.plan.spec.optimizer["lr"], job.seed) for job in jobs_of(Tuner(planned, each))) for each in planned.arms]
    assert tried[0] == tried[1] and len(tried[0]) == 10


OWN_OPTIMIZER = """
from arch.registry import optimizer
from arch.spec import Positive, Spec


@optimizer
class Either:
    class Config(Spec):
        lr: Positive
        clip: Positive | None = None
        order: int | float = 2
"""


def test_a_search_that_arms_would_not_share_is_refused(plan_study, study_data, tmp_path, monkeypatch):
    (tmp_path / "either_optimizer.py").write_text(OWN_OPTIMIZER)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = study_data | {
        "optimizer": {"type": "either_optimizer:Either", "lr": 1e-3},
        "arms": {"whole": {}, "half": {"optimizer.order": 2.5}},
        "tune": {"space": {"optimizer.order": {"low": 1, "high": 3, "log": False, "points": 5}}},
    }
    with pytest.raises(SpecError, match="expected the same values in every arm"):
        plan_study(own)
    same = {"arms": {"slow": {}, "fast": {"optimizer.lr": 1e-2}}, "tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1}}}}
    with pytest.raises(SpecError, match="differs from arm 'slow' only in what `tune` chooses"):
        plan_study(study_data | same)
    with pytest.raises(SpecError, match="expected whole numbers for low and high"):
        plan_study(study_data | {"tune": {"space": {"model.layers": {"low": 0.6, "high": 4}}}})


def test_the_preview_charges_the_search(study_data):
    tune = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1}}, "seeds": 2}
    spec, arms = study.check(document.node(study_data | {"tune": tune}))
    data = show.preview("asked", None, spec, arms)
    without = show.preview("asked", None, *study.check(document.node(study_data)))
    one = next(iter(data["arms"].values()))
    assert one["tuning"] == {"runs": 10, "tokens": 10 * one["tokens"], "training_flops": 10 * one["training_flops"]}
    assert data["total"]["tuning"]["runs"] == 20 and without["total"]["tuning"]["runs"] == 0
    spent = data["total"]["training_flops"] - without["total"]["training_flops"]
    assert spent == data["total"]["tuning"]["training_flops"] == 10 * sum(arm["training_flops"] for arm in data["arms"].values())


def test_points_that_change_the_model_are_costed_one_by_one(study_data):
    tune = {"space": {"model.layers": {"low": 1, "high": 4, "points": 4}}}
    one = {"arms": {"only": {"model.pattern": ["local"]}}}
    spec, arms = study.check(document.node(study_data | one | {"tune": tune}))
    search = show.preview("asked", None, spec, arms)["arms"]["only"]["tuning"]

    def flops(layers):
        _, arms = study.check(document.node(study_data | one | {"model": study_data["model"] | {"layers": layers}}))
        return show.preview("asked", None, spec, arms)["arms"]["only"]["training_flops"]

    assert search["runs"] == 4 and search["training_flops"] == sum(flops(layers) for layers in (1, 2, 3, 4))


def test_trials_start_from_a_helper_run_that_is_made_before_them(plan_study, study_data, console):
    """`seed: same` is a tuning seed in a trial, and a reported seed afterwards; a fixed seed is the same run for all."""
    helped = study_data | {
        "runs": {"pretrained": {"optimizer.weight_decay": 0.3}},
        "arms": {
            "own": {"init_from": {"run": "pretrained"}},
            "shared": {"init_from": {"run": "pretrained", "seed": 7}, "optimizer.weight_decay": 0.2},
        },
        "tune": {**GRID, "seeds": 2},
    }
    planned = plan_study(helped)
    own, shared = planned.arms
    assert [(job.arm, job.seed) for job in planned.needed(own, [1000, 1001])] == [("pretrained", 1000), ("pretrained", 1001)]
    assert [(job.arm, job.seed) for job in planned.needed(shared, [1000, 1001])] == [("pretrained", 7)]
    planned.folder.mkdir(parents=True)
    for arm, seeds in ((own, {1000: 1000, 1001: 1001}), (shared, {1000: 7, 1001: 7})):
        for job in jobs_of(Tuner(planned, arm)):
            assert [folder.name for folder in job.needs] == [f"seed-{seeds[job.seed]}"]
    result = run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert result.complete and {trial.state for trial in record.trials} == {"finished"}
    assert sorted(record.helpers["pretrained"]) == ["0", "1", "7"], "those of the reported runs"
    trained = {path.parent.name for path in planned.folder.glob("pretrained-*/*/record.json")}
    assert trained == {"seed-0", "seed-1", "seed-7", "seed-1000", "seed-1001"}
    for arm in record.arms.values():
        assert arm.tuned and len(set(arm.identities)) == len(arm.identities)


def test_a_tuned_arm_may_not_need_another_tuned_arm(plan_study, study_data):
    arms = {"a": {}, "b": {"init_from": {"run": "helper"}}}
    helper = {"runs": {"helper": {"init_from": {"run": "a"}}}}
    with pytest.raises(SpecError, match="the arm 'a' is tuned itself; name the run that is needed under `runs`"):
        plan_study(study_data | helper | {"arms": arms, "tune": GRID})


@pytest.mark.parametrize("tune", [{}, {"sampler": "tpe", "trials": 3}])
def test_two_processes_tune_together_and_choose_alike(tuned_study, tune):
    import optuna

    planned, storage = tuned_study(**tune), optuna.storages.InMemoryStorage()
    one, other = (Tuner(planned, planned.arms[0], storage) for _ in range(2))
    while one.ask() | other.ask():
        pass
    ready = list(one.ready())
    assert [job.folder for job in ready] == [job.folder for job in other.ready()] and len(ready) == 3
    assert not one.is_over
    for i, job in enumerate(ready):
        job.folder.mkdir(parents=True, exist_ok=True)
        metrics = {"select/loss": abs(job.plan.spec.optimizer["lr"] - 2e-2)}
        fakes.record(job.plan, job.seed, "finished", metrics=metrics).write(job.folder)
        (one, other)[i % 2].settle()
    one.settle()
    assert one.is_over and other.is_over and not list(other.ready()) and len(one.records()) == 3
    assert one.chosen() == other.chosen() and one.chosen().values
