"""A finished run without weights, as in a kept copy: it counts, and is made again only where a run to do needs its weights."""

import shutil

import pytest
import sweeps_fakes as fakes

from arch import document
from arch.checkpoint import WEIGHTS
from experiments.record import RunRecord, record_file
from sweeps import folders, keeping, study
from sweeps.job import Outcome
from sweeps.queues import Runs
from sweeps.run import run_study

CHAIN = {"arms": {"first": {}, "then": {"init_from": {"run": "first"}}, "last": {"init_from": {"run": "then"}}}, "seeds": 1}


def finished(planned):
    """{arm: folder} of a study of one seed, all of whose runs are finished."""
    for job in planned.jobs():
        fakes.finish(job)
    return {job.arm: job.folder for job in planned.jobs()}


def to_do(planned):
    """The arms in the order in which their runs are done."""
    queue, found = Runs("runs", planned.jobs()), []
    while job := queue.take():
        found.append(job.arm)
        fakes.finish(job)
        queue.told(Outcome(job, "finished", RunRecord.read(job.folder)))
    return found


def test_the_name_of_the_file_is_that_of_checkpoints():
    assert folders.WEIGHTS == WEIGHTS


@pytest.mark.parametrize(
    ("weightless", "lost", "again"),
    [
        (["first", "then", "last"], [], []),
        (["first", "then", "last"], ["last"], ["first", "then", "last"]),
        (["first"], ["last"], ["last"]),
        (["then"], ["last"], ["then", "last"]),
        (["first", "last"], ["then"], ["first", "then"]),
    ],
)
def test_only_what_a_run_to_do_needs_is_made_again(weightless, lost, again, plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    for arm in weightless:
        (places[arm] / WEIGHTS).unlink()
    for arm in lost:
        shutil.rmtree(places[arm])
    assert to_do(planned) == again
    assert to_do(planned) == []


@pytest.mark.parametrize("status", ["interrupted", "running", "failed"])
def test_an_unfinished_run_that_others_need_keeps_its_record(status, plan_study, study_data):
    """It never had weights that could be gone; what its record says of earlier starts must stay."""
    planned = plan_study(study_data | CHAIN)
    first = planned.jobs()[0]
    fakes.finish(first)
    (first.folder / WEIGHTS).unlink()
    RunRecord.read(first.folder).model_copy(update={"status": status}).write(first.folder)
    queue = Runs("runs", planned.jobs())
    assert queue.again == [] and RunRecord.read(first.folder).status == status and queue.take().arm == "first"


def test_planning_removes_nothing(plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    assert [(job.arm, job.read) for job in planned.jobs()] == [("first", True), ("then", True), ("last", False)]
    assert planned.record().arms and record_file(places["then"]).is_file()


def test_a_folder_of_another_study_gives_its_weights_and_loses_nothing(plan_study, study_data):
    """Another study's run is read where it has weights; where it has none, this study makes a run of its own."""
    lent = finished(plan_study(study_data | CHAIN, "other"))
    planned = plan_study(study_data | CHAIN)
    shutil.rmtree(lent["last"])
    assert [job.folder for job in planned.jobs()][:2] == [lent["first"], lent["then"]]
    (lent["then"] / WEIGHTS).unlink()
    first, then, last = planned.jobs()
    assert first.folder == lent["first"] and then.folder.is_relative_to(planned.folder) and last.needs == [then.folder]
    assert to_do(planned) == ["then", "last"]
    assert RunRecord.read(lent["then"]).status == "finished"


@pytest.mark.slow
def test_a_kept_copy_goes_on_to_the_same_numbers(study_data, tmp_path, console):
    """Real training: a teacher as a helper run; one of two students is missing in the copy."""
    distilled = {"objective": {"type": "distill", "teacher": {"run": "teacher"}}}
    data = study_data | {"arms": {"scratch": {}, "taught": distilled}, "runs": {"teacher": {"optimizer.lr": 1e-2}}, "seeds": 2}
    data |= {"train": {"steps": 3}}

    def planned(runs):
        spec, arms = study.check(document.node(data))
        return study.plan("taught", None, spec, arms, tmp_path / runs)

    whole = run_study(planned("runs"), 1, console)
    assert whole.complete, [each.message for each in whole.outcomes]
    keeping.keep(whole.study.folder, tmp_path / "results")
    copy = planned("results")
    lost = next(job for job in copy.jobs() if (job.arm, job.seed) == ("taught", 1))
    shutil.rmtree(lost.folder)
    goes_on = run_study(planned("results"), 1, console)
    assert goes_on.complete, [each.message for each in goes_on.outcomes]
    read = lambda result: {(each.job.arm, each.job.seed): each.record.metrics for each in result.outcomes}  # noqa: E731
    assert read(goes_on) == read(whole)
    assert "teacher seed 1: a run to do reads its weights, which are gone, so it is made again" in console.file.getvalue()
    reused = {(each.job.arm, each.job.seed) for each in goes_on.outcomes if each.reused}
    assert reused == {("scratch", 0), ("taught", 0), ("teacher", 0), ("scratch", 1)}
    assert not list(copy.folder.glob("scratch-*/seed-*/model.safetensors"))
