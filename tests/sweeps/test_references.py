"""Runs that start from other runs: planned as a graph, made in order, identified by what they start from."""

import os
import signal
from dataclasses import replace

import pytest
import sweeps_fakes as fakes
import torch
from safetensors.torch import load_file

from analysis.__main__ import written
from arch import document
from arch.errors import DataError, SpecError
from experiments.plan import plan
from experiments.record import RunRecord
from sweeps import queues, show, status, study
from sweeps.record import StudyRecord
from sweeps.run import run_study

STAGES = {
    "arms": {
        "late window": {"init_from": {"run": "base"}, "model.blocks.local.mixer.window": 8, "train.steps": 0},
        "base": {},
        "soup": {"init_from": [{"run": "base"}, {"run": "faster", "seed": 7}], "train.steps": 0},
    },
    "runs": {"faster": {"optimizer.lr": 1e-2}, "not needed": {"optimizer.lr": 2e-2}},
}


def names(jobs):
    return [(job.arm, job.seed) for job in jobs]


def test_needs_come_before_users_and_helpers_only_where_an_arm_needs_them(plan_study, study_data):
    planned = plan_study(study_data | STAGES)
    assert names(planned.jobs()) == [
        ("base", 0),
        ("late window", 0),
        ("faster", 7),
        ("soup", 0),
        ("base", 1),
        ("late window", 1),
        ("soup", 1),
    ]
    assert [remark for remark in planned.remarks() if "is not made" in remark] == [
        "the run 'not needed' is not made: no arm starts from it or uses it"
    ]
    jobs = {(job.arm, job.seed): job for job in planned.jobs()}
    assert jobs["soup", 1].needs == [jobs["base", 1].folder, jobs["faster", 7].folder]
    assert jobs["late window", 1].plan.start.parents[0].seed == 1


def test_what_only_finished_runs_needed_is_not_made_again(plan_study, study_data):
    planned = plan_study(study_data | STAGES)
    for job in planned.jobs():
        if job.arm != "faster":
            fakes.finish(job)
    assert ("faster", 7) not in names(planned.jobs())
    assert planned.record().helpers == {}


def test_an_arm_of_another_seed_or_with_overrides_is_a_helper_run(plan_study, study_data):
    arms = {
        "base": {},
        "from 5": {"init_from": {"run": "base", "seed": 5}},
        "from short": {"init_from": {"run": "base", "set": {"train.steps": 3}}},
    }
    planned = plan_study(study_data | {"arms": arms, "seeds": 1})
    short = "base with train.steps=3"
    assert names(planned.jobs()) == [("base", 0), ("base", 5), ("from 5", 0), (short, 0), ("from short", 0)]
    assert planned.jobs()[3].plan.spec.train.steps == 3
    record = planned.record()
    assert record.helpers.keys() == {"base", short} and record.helpers["base"].keys() == {"5"}
    assert record.arms["base"].runs.keys() == {"0"}


def test_weights_of_another_run_than_the_planned_one_are_refused(plan_study, study_data):
    jobs = {(job.arm, job.seed): job for job in plan_study(study_data | STAGES).jobs()}
    (parent,) = jobs["late window", 1].plan.start.parents
    with pytest.raises(DataError, match="expected the finished run 'base' with seed 1"):
        parent.check()
    fakes.finish(jobs["base", 1])
    parent.check()
    fakes.finish(replace(jobs["base", 0], folder=jobs["base", 1].folder))
    with pytest.raises(DataError, match="expected the finished run 'base' with seed 1"):
        parent.check()


def test_show_counts_helper_runs(study_data):
    spec, arms = study.check(document.node(study_data | STAGES))
    data = show.preview("asked", None, spec, arms)
    assert {label: each["seeds"] for label, each in data["helpers"].items()} == {"faster": [7]}
    trained = 12 * 4 * 32
    assert data["total"]["runs"] == 7 and data["total"]["tokens"] == 3 * trained
    each = data["arms"]["base"]["training_flops"]
    assert data["total"]["training_flops"] == 3 * each and data["arms"]["soup"]["training_flops"] == 0


@pytest.mark.parametrize(
    ("change", "line", "text"),
    [
        ({"arms": {"a": {"init_from": {"run": "b"}}, "b": {"init_from": {"run": "a"}}}}, '"run": "a"', "a -> b -> a"),
        ({"arms": {"a": {"init_from": {"run": "a", "set": {"train.steps": 1}}}}}, "a", "need itself"),
        ({"arms": {"a": {}, "b": {"init_from": {"run": "aa"}}}, "runs": {"ab": {}}}, "aa", "did you mean 'a' or 'ab'"),
        ({"arms": {"a": {"init_from": {"run": "a.yaml"}}}}, "a.yaml", "no such file"),
        ({"runs": {"1:1": {}}}, "runs", "'1:1' is the name of an arm"),
        ({"runs": {"a": {"model.layers": 0}}}, "model.layers", "greater than or equal to 1"),
        ({"arms": {"a": {}, "b": {"init_from": []}}}, "init_from", "at least one run or folder"),
        ({"arms": {"a": {}, "b": {"init_from": {"rnu": "a"}}}}, "rnu", "did you mean 'run'"),
        (
            {"arms": {"a": {}, "b": {"init_from": [{"run": "a", "seed": -1}]}}},
            "seed",
            "expected `same` or a whole number from 0 to 4294967295, got -1",
        ),
        ({"arms": {"a": {}, "b": {"init_from": {"run": 3}}}}, "run", "expected text, got 3"),
        (
            {"arms": {"a": {}, "b": {"init_from": {"run": "a"}}}, "tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}}},
            "init_from",
            "is tuned itself; name the run that is needed under `runs`",
        ),
    ],
)
def test_bad_references_are_refused_at_their_line(plan_study, study_data, tmp_path, monkeypatch, change, line, text):
    import json

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data | change, indent=1))
    with pytest.raises(SpecError, match=r"study\.yaml:\d+") as caught:
        study.check(document.load(str(path), "sweeps"))
    assert text in str(caught.value)
    assert line in path.read_text().splitlines()[caught.value.line - 1]


def test_a_single_run_refuses_what_has_to_be_trained_first(tiny):
    with pytest.raises(SpecError, match="put both into a study") as caught:
        plan(tiny | {"init_from": {"run": "tiny_gemma3"}})
    assert caught.value.path == ("init_from", "run")
    with pytest.raises(SpecError, match="no checkpoint"):
        plan(tiny | {"init_from": [{"run": "nowhere"}]})


def test_identity_recurses_through_what_a_run_starts_from(study_data, tmp_path):
    def identities(**change):
        data = {**study_data, "arms": {"base": {}, "next": {"init_from": {"run": "base"}, "train.steps": 0}}, **change}
        spec, arms = study.check(document.node(data))
        return [each.identities[0] for each in study.plan("asked", None, spec, arms, tmp_path).arms]

    base, after = identities()
    assert identities() == [base, after]
    other, changed = identities(optimizer={"lr": 1e-2})
    assert other != base and changed != after  # a step size is not used with steps: 0, but the base's is
    fixed = {"base": {}, "next": {"init_from": {"run": "base", "seed": 0}, "train.steps": 0}}
    renamed = {"first": {}, "next": {"init_from": {"run": "first"}, "train.steps": 0}}
    assert identities(arms=fixed)[1] not in (after, base) and identities(arms=renamed) == [base, after]


def test_a_run_that_fails_ends_the_runs_that_need_it(plan_study, study_data, console):
    arms = {
        "fine": {"optimizer.lr": fakes.FINE},
        "fails": {"optimizer.lr": fakes.FAILS},
        "next": {"optimizer.lr": fakes.FINE, "init_from": {"run": "fails"}},
        "last": {"optimizer.lr": fakes.FINE, "init_from": [{"run": "next"}, {"run": "fine"}]},
    }
    planned = plan_study(study_data | {"arms": arms, "seeds": 1})
    result = run_study(planned, 1, console, fakes.prepare)
    assert {each.job.arm: each.status for each in result.outcomes} == dict.fromkeys(arms, "failed") | {"fine": "finished"}
    messages = {each.job.arm: each.message for each in result.outcomes}
    assert messages["next"] == "needs fails seed 0, which failed" and messages["last"] == "needs next seed 0, which failed"
    assert not result.complete
    failed = RunRecord.read(result.outcomes[3].job.folder)
    assert failed.status == "failed" and failed.failure.message == messages["last"]
    assert "next seed 0 failed: needs fails seed 0" in console.file.getvalue()
    status.printed(planned.folder, console)
    assert "failed: last seed 0: needs next seed 0, which failed" in console.file.getvalue()


@pytest.mark.parametrize("rate, machine", [(fakes.FAILS, False), (fakes.DIES, True)])
def test_what_a_needed_run_failed_of_is_what_its_users_failed_of(rate, machine, plan_study, study_data, console):
    """A worker that died says nothing of the arm that needed its run."""
    arms = {"first": {"optimizer.lr": rate}, "next": {"optimizer.lr": fakes.FINE, "init_from": {"run": "first"}}}
    result = run_study(plan_study(study_data | {"arms": arms, "seeds": 1}), 1, console, fakes.prepare)
    failure = RunRecord.read(result.outcomes[1].job.folder).failure
    assert failure.error == "NeedFailed" and failure.by_machine is machine


@pytest.mark.slow
def test_a_study_of_stages_is_interrupted_resumed_and_reported(study_data, tmp_path, console, monkeypatch):
    """Real training: a base, its window changed without training, and the mean of two runs of which one is a helper."""
    data = study_data | STAGES | {"train": {"steps": 3, "checkpoint_every": 2}}

    def planned():
        spec, arms = study.check(document.node(data))
        return study.plan("stages", None, spec, arms, tmp_path / "runs")

    told = queues.Runs.told

    def interrupting(self, outcome):
        if len(self.ended) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return told(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(queues.Runs, "told", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run_study(planned(), 1, console)
    result = run_study(planned(), 1, console)
    assert result.complete, [each.message for each in result.outcomes]
    assert any(each.reused for each in result.outcomes) and not all(each.reused for each in result.outcomes)
    folders = {(each.job.arm, each.job.seed): each.job.folder for each in result.outcomes}
    weights = {run: load_file(folder / "model.safetensors") for run, folder in folders.items()}
    for seed in (0, 1):
        base, late, soup = (weights[name, seed] for name in ("base", "late window", "soup"))
        assert all(torch.equal(base[name], late[name]) for name in base)
        faster = weights["faster", 7]
        for name in base:
            torch.testing.assert_close(soup[name], (base[name] + faster[name]) / 2)
        losses = {name: RunRecord.read(folders[name, seed]).metrics["report/loss"] for name in ("base", "late window", "soup")}
        assert len(set(losses.values())) == 3
    assert weights["base", 0]["embedding"].ne(weights["base", 1]["embedding"]).any()
    record = StudyRecord.read(result.study.folder)
    assert record.helpers.keys() == {"faster"} and "faster" not in record.arms
    assert run_study(planned(), None, console).complete
    written(result.study.folder, "report: ")
    assert "late window" in (result.study.folder / "report.html").read_text()
