"""A finished run without weights, as in a kept copy: it counts, and is trained once more, elsewhere, where its weights are read."""

import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sweeps_fakes as fakes
from filelock import FileLock

from arch import document
from arch.checkpoint import WEIGHTS
from experiments import evaluations
from experiments.record import Failure, RunRecord, record_file
from sweeps import catalog, folders, keeping, open_queue, removal, shared_queue, storage, study, work
from sweeps.job import Outcome
from sweeps.leases import Terms
from sweeps.queues import Runs
from sweeps.retraining import Retraining
from sweeps.run import run_study
from sweeps.search.queue import Search
from sweeps.worker import LOCK

CHAIN = {"arms": {"first": {}, "then": {"init_from": {"run": "first"}}, "last": {"init_from": {"run": "then"}}}, "seeds": 1}


def finished(planned):
    """{arm: folder} of a study of one seed, all of whose runs are finished."""
    for job in planned.jobs():
        fakes.finish(job)
    return {job.arm: job.folder for job in planned.jobs()}


def queue_of(planned, jobs=None):
    return Retraining(Runs("runs", jobs or planned.jobs()), planned)


def outcome(job, status="finished"):
    """How a job ended, with the record that its worker would leave."""
    if status == "finished":
        fakes.finish(job)
    else:
        job.folder.mkdir(parents=True, exist_ok=True)
        fakes.record(job.plan, job.seed, status, failure=Failure(step=1, error="NonFinite", message="nan")).write(job.folder)
    return Outcome(job, status, RunRecord.read(job.folder))


def to_do(planned):
    """What is done, in this order: arms, with a star where a run is trained once more."""
    queue, found = queue_of(planned), []
    while job := queue.take():
        assert all(folders.has_weights(need) for need in job.needs)
        found.append(f"{job.arm}{'*' if job.retrained else ''}")
        queue.told(outcome(job))
    return found


def content(folder):
    """{path: bytes} of a folder's files."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_name_of_the_file_is_that_of_checkpoints():
    assert folders.WEIGHTS == WEIGHTS


def test_weights_are_there_if_their_file_is_as_long_as_its_header_says(tmp_path):
    import torch
    from safetensors.torch import save_file

    assert not folders.has_weights(tmp_path)
    file = tmp_path / WEIGHTS
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(2)}, file, {"format": "pt"})
    assert folders.has_weights(tmp_path)
    whole = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
    for broken in (whole[:-1], whole + b"\0", whole[:20], b"", b"\xff" * 8, pointer):
        file.write_bytes(broken)
        assert not folders.has_weights(tmp_path)
    save_file({}, file)
    assert folders.has_weights(tmp_path)


@pytest.mark.parametrize(
    ("weightless", "lost", "again"),
    [
        (["first", "then", "last"], [], []),
        (["first", "then", "last"], ["last"], ["first*", "then*", "last"]),
        (["first"], ["last"], ["last"]),
        (["then"], ["last"], ["then*", "last"]),
        (["first", "last"], ["then"], ["first*", "then"]),
        (["first", "then"], ["then", "last"], ["first*", "then", "last"]),
    ],
)
def test_only_what_a_run_to_do_reads_is_trained_once_more(weightless, lost, again, plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    for arm in weightless:
        (places[arm] / WEIGHTS).unlink()
    for arm in lost:
        shutil.rmtree(places[arm])
    before = {arm: content(folder) for arm, folder in places.items() if arm not in lost}
    assert to_do(planned) == again
    assert {arm: content(folder) for arm, folder in places.items() if arm not in lost} == before
    assert to_do(planned) == []


def test_what_a_run_once_needed_may_be_gone_altogether(plan_study, study_data):
    helpers = {"far": {}, "near": {"init_from": {"run": "far"}}}
    planned = plan_study(study_data | {"arms": {"a": {"init_from": {"run": "near"}}}, "runs": helpers, "seeds": 1})
    places = finished(planned)
    shutil.rmtree(places["far"])
    assert to_do(planned) == []  # what only finished runs needed is not made
    shutil.rmtree(places["a"])
    (places["near"] / WEIGHTS).unlink()
    assert to_do(planned) == ["far*", "near*", "a"]


@pytest.mark.parametrize("status", ["interrupted", "running", "failed"])
def test_an_unfinished_run_that_others_need_goes_on_where_it_is(status, plan_study, study_data):
    """It never had weights that could be gone; what its record says of earlier starts must stay."""
    planned = plan_study(study_data | CHAIN)
    first = planned.jobs()[0]
    fakes.finish(first)
    (first.folder / WEIGHTS).unlink()
    RunRecord.read(first.folder).model_copy(update={"status": status}).write(first.folder)
    job = queue_of(planned).take()
    assert (job.arm, job.retrained, job.folder) == ("first", False, first.folder)
    assert RunRecord.read(first.folder).status == status


@pytest.mark.parametrize("end", ["failed", "lost"])
def test_a_finished_run_survives_a_training_for_its_weights_that_fails(end, plan_study, study_data):
    """The runs that need it are given, to fail by themselves; nothing is tried for ever."""
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    before = content(places["then"])
    queue = queue_of(planned)
    job = queue.take()
    assert (job.arm, job.retrained) == ("then", True) and queue.take() is None
    assert queue.told(outcome(job, "failed") if end == "failed" else Outcome(job, "lost", None)) == []
    last = queue.take()
    assert (last.arm, last.needs) == ("last", [places["then"]])
    queue.told(outcome(last, "failed"))
    assert queue.take() is None and [each.status for each in queue.source.outcomes()] == ["finished", "finished", "failed"]
    assert content(places["then"]) == before


def test_one_training_gives_the_weights_to_all_that_read_them(plan_study, study_data):
    arms = {
        "first": {},
        **{name: {"init_from": {"run": "first"}, "optimizer.lr": lr} for name, lr in (("a", 1.1e-3), ("b", 1.2e-3))},
    }
    planned = plan_study(study_data | {"arms": arms, "seeds": 2})
    for job in planned.jobs():
        fakes.finish(job)
        if job.arm == "first":
            (job.folder / WEIGHTS).unlink()
        else:
            shutil.rmtree(job.folder)
    queue = queue_of(planned)
    one, two = queue.take(), queue.take()
    assert [(job.arm, job.seed, job.retrained) for job in (one, two)] == [("first", 0, True), ("first", 1, True)]
    assert queue.take() is None  # all that is left waits for the two
    for seed, first in ((1, two), (0, one)):
        queue.told(outcome(first))
        users = queue.take(), queue.take()
        assert [(job.arm, job.seed, job.needs) for job in users] == [(name, seed, [first.folder]) for name in ("a", "b")]
    assert queue.take() is None


def test_what_is_merged_is_trained_once_more_too(plan_study, study_data):
    arms = {"base": {}, "a": {"init_from": {"run": "base"}}, "b": {"init_from": {"run": "base"}, "optimizer.lr": 3.5e-3}}
    arms["soup"] = {"init_from": [{"run": "a"}, {"run": "b"}], "train.steps": 0}
    planned = plan_study(study_data | {"arms": arms, "seeds": 1})
    places = finished(planned)
    for folder in places.values():
        (folder / WEIGHTS).unlink()
    shutil.rmtree(places["soup"])
    assert to_do(planned) == ["base*", "a*", "b*", "soup"]
    # The same run twice among what is merged.
    planned = plan_study(study_data | {"arms": {**arms, "soup": {**arms["soup"], "init_from": [{"run": "a"}] * 2}}, "seeds": 1})
    assert to_do(planned) == ["soup"]
    shutil.rmtree(planned.folder / "retrained")
    shutil.rmtree(planned.jobs()[-1].folder)
    assert to_do(planned) == ["base*", "a*", "soup"]


def test_planning_removes_nothing_and_a_retrained_run_is_no_reported_one(plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    queue_of(planned)
    assert [job.folder for job in planned.jobs()] == list(places.values()) and record_file(places["then"]).is_file()
    to_do(planned)
    assert [job.folder for job in planned.jobs()] == list(places.values())
    record = planned.record()
    assert {(planned.folder / run).resolve() for arm in record.arms.values() for run in arm.runs.values()} == set(places.values())
    assert len(list(planned.folder.glob("retrained/then-*/seed-0/record.json"))) == 1


def test_weights_of_another_study_are_read_and_its_folder_loses_nothing(plan_study, study_data):
    lent = finished(plan_study(study_data | CHAIN, "other"))
    planned = plan_study(study_data | CHAIN)
    shutil.rmtree(lent["last"])
    (lent["then"] / WEIGHTS).unlink()
    assert [job.folder for job in planned.jobs()][:2] == [lent["first"], lent["then"]]
    assert to_do(planned) == ["then*", "last"]
    assert RunRecord.read(lent["then"]).status == "finished"
    # The same run, finished in two studies: one of them has the weights.
    third = plan_study(study_data | CHAIN, "third")
    own = folders.run_folder(third.folder, "then", third.jobs()[1].plan.identity, 0)
    shutil.copytree(lent["then"], own)
    last = next(job for job in third.jobs() if job.arm == "last")
    shutil.rmtree(last.folder)
    (lent["then"] / WEIGHTS).write_bytes(fakes.NO_TENSORS)
    assert to_do(third) == ["last"]


def test_a_retrained_run_whose_weights_are_gone_as_well_is_done_again(plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    for _ in range(2):
        shutil.rmtree(places["last"])
        assert to_do(planned) == ["then*", "last"]
        next(planned.folder.glob("retrained/then-*/seed-0")).joinpath(WEIGHTS).unlink()


def test_a_finished_run_that_lacks_a_measurement_reads_no_weights_of_others(plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["first"] / WEIGHTS).unlink()
    more = (evaluations.Evaluation(split="report", name="loss", evaluator={"type": "objective", "rows": 4}),)
    first, then, last = planned.jobs()
    then = replace(then, plan=then.plan.model_copy(update={"evaluations": more}))
    queue = queue_of(planned, [first, then, last])
    assert queue.take() is then and queue.take() is None


def test_weights_that_were_borrowed_and_vanish_are_made_here(plan_study, study_data):
    lent = finished(plan_study(study_data | CHAIN, "other"))
    arms = CHAIN["arms"] | {"more": {"init_from": {"run": "then"}, "optimizer.lr": 1.7e-3}}
    planned = plan_study(study_data | {"arms": arms, "seeds": 1})
    own = folders.run_folder(planned.folder, "then", planned.jobs()[1].plan.identity, 0)
    shutil.copytree(lent["then"], own)
    (own / WEIGHTS).unlink()
    shutil.rmtree(lent["last"])
    queue = queue_of(planned)
    assert queue.take().needs == [lent["then"]]
    shutil.rmtree(planned.runs / "other")
    job = queue.take()
    assert (job.arm, job.retrained) == ("first", True) and job.folder.is_relative_to(planned.folder / "retrained")


def test_what_is_trained_once_more_counts_for_the_number_of_workers(plan_study, study_data):
    arms = {name: {"optimizer.lr": lr} for name, lr in (("a", 1.1e-3), ("b", 1.2e-3), ("c", 1.3e-3))}
    soup = {"init_from": [{"run": name} for name in arms], "train.steps": 0}
    planned = plan_study(study_data | {"arms": {**arms, "soup": soup}, "seeds": 1})
    places = finished(planned)
    shutil.rmtree(places["soup"])
    assert queue_of(planned).total == 1
    for name in arms:
        (places[name] / WEIGHTS).unlink()
    assert queue_of(planned).total == 4


@pytest.mark.parametrize("weights", [True, False])
def test_a_search_is_asked_for_no_more_while_it_waits_for_weights(weights, plan_study, study_data):
    """What it asks for depends on what it has seen: it sees as much as if the weights were there, and its range grows."""
    search = {"space": {"optimizer.lr": {"low": 1e-2, "high": 3e-2}}, "minimise": "select/loss", "trials": 24, "sampler": "tpe"}
    data = {"arms": {"a": {"init_from": {"run": "t"}}}, "runs": {"t": {"optimizer.lr": 1.1e-3}}, "search": {**search, "widen": 2}}
    planned = plan_study(study_data | data | {"seeds": 1})
    planned.folder.mkdir(parents=True)
    for job in planned.needed(planned.arms[0], planned.spec.search.tuning_seeds):
        fakes.finish(job)
        if not weights:
            (job.folder / WEIGHTS).unlink()
    search = Search(planned, optuna.storages.InMemoryStorage())
    queue, running, seen = Retraining(search, planned), [], 0
    while True:
        while len(running) < 2 and (job := queue.take()):
            running.append(job)
        assert len(search.records()) <= seen + 2
        if not running:
            break
        job = running.pop(0)
        fakes.finish(job)
        metrics = {"select/loss": abs(job.plan.spec.optimizer["lr"] - 3e-2)}
        fakes.record(job.plan, job.seed, "finished", metrics=metrics).write(job.folder)
        queue.told(Outcome(job, "finished", RunRecord.read(job.folder)))
        seen += not job.retrained
    assert seen == 24 and search.ranges


def test_an_unfinished_study_is_running_while_it_trains_once_more_and_gc_leaves_that(plan_study, study_data):
    planned = plan_study(study_data | CHAIN)
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    planned.record().write(planned.folder)
    queue = queue_of(planned)
    job = queue.take()
    job.folder.mkdir(parents=True)
    assert catalog.entry(planned.folder, planned.runs).state == "stopped"
    with FileLock(job.folder / LOCK):
        assert catalog.entry(planned.folder, planned.runs).state == "running"
    queue.told(outcome(job))
    assert removal.collectable(planned.runs, 30)[0] == []
    queue.told(outcome(queue.take()))
    assert catalog.entry(planned.folder, planned.runs).state == "finished"
    (waste,), _ = removal.collectable(planned.runs, 30)
    assert waste.paths == (job.folder,)


QUICK = Terms(beat=0.05, lease=5.0, losses=2)


@pytest.fixture
def join(plan_study, study_data, tmp_path):
    """(StudyPlan of CHAIN, join() gives a new driver's Shared of it)."""
    planned = plan_study(study_data | CHAIN)
    planned.folder.mkdir(parents=True)

    def joined(say=lambda text: None, source=None):
        queue = open_queue.opened(storage.opened(f"journal:{tmp_path}/queue"), planned, print)
        queue = shared_queue.SharedQueue(queue.study, queue.storage, QUICK, queue.forgiven, print)
        return work.Shared(source or Retraining(Runs("runs", planned.jobs()), planned, say), queue, planned.folder)

    return planned, joined


def told(shared, job, status="finished"):
    shared.told(Outcome(job, "lost", None, "died") if status == "lost" else outcome(job, status))
    shared.looked = float("-inf")
    going = shared.tick()
    shared.looked = float("-inf")
    return going


def test_drivers_that_share_a_study_train_once_more_what_a_run_reads(join):
    planned, joined = join
    places = finished(planned)
    for arm in ("first", "then"):
        (places[arm] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    before = {arm: content(places[arm]) for arm in ("first", "then")}
    one, two = joined(), joined()
    first = one.take()
    assert (first.arm, first.retrained) == ("first", True) and two.take() is None
    assert told(one, first)
    two.looked = float("-inf")
    then = two.take()
    assert (then.arm, then.retrained, then.needs) == ("then", True, [first.home]) and one.take() is None
    assert told(two, then)
    one.looked = float("-inf")
    last = one.take()
    assert (last.arm, last.needs) == ("last", [then.home])
    assert not told(one, last)
    two.looked = float("-inf")
    assert not two.tick()
    assert {arm: content(places[arm]) for arm in ("first", "then")} == before
    assert [each.status for each in one.source.source.outcomes()] == ["finished"] * 3


def test_a_run_that_failed_for_good_makes_nothing_be_trained_once_more(join):
    planned, joined = join
    one = joined()
    for status in ("finished", "finished", "failed"):
        told(one, one.take(), status)
    then = planned.jobs()[1]
    (then.folder / WEIGHTS).unlink()
    said = []
    two = joined(said.append)
    assert two.take() is None and not two.tick()
    assert not said and not (planned.folder / "retrained").exists()


def test_drivers_that_share_a_study_do_not_replace_a_finished_run_that_lacks_a_measurement(join):
    planned, joined = join
    places = finished(planned)
    (places["last"] / WEIGHTS).unlink()
    before = content(places["last"])
    more = (evaluations.Evaluation(split="report", name="loss", evaluator={"type": "objective", "rows": 4}),)
    *others, last = planned.jobs()
    last = replace(last, plan=last.plan.model_copy(update={"evaluations": more}))
    one = joined(source=queue_of(planned, [*others, last]))
    assert one.take() is None and not one.tick() and content(places["last"]) == before
    end = one.source.source.outcomes()[-1]
    assert (end.status, end.record.failure.by_machine) == ("failed", True)
    assert "its weights are gone, as in a kept copy; to measure more needs them" in end.message


def test_drivers_that_share_a_search_ask_for_no_more_while_it_waits_for_weights(plan_study, study_data, tmp_path):
    search = {"space": {"optimizer.lr": {"low": 1e-2, "high": 3e-2}}, "minimise": "select/loss", "trials": 14, "sampler": "tpe"}
    data = {"arms": {"a": {"init_from": {"run": "t"}}}, "runs": {"t": {"optimizer.lr": 1.1e-3}}, "search": search, "seeds": 1}
    planned = plan_study(study_data | data)
    planned.folder.mkdir(parents=True)
    for job in planned.needed(planned.arms[0], planned.spec.search.tuning_seeds):
        fakes.finish(job)
        (job.folder / WEIGHTS).unlink()
    opened = storage.opened(f"journal:{tmp_path}/queue")

    def joined():
        queue = open_queue.opened(opened, planned, print)
        queue = shared_queue.SharedQueue(queue.study, queue.storage, QUICK, queue.forgiven, print)
        return work.Shared(Retraining(Search(planned, opened, alone=False), planned), queue, planned.folder)

    one, two = joined(), joined()
    assert one.take().retrained
    for driver in (one, two) * 3:
        driver.looked = float("-inf")
        assert driver.tick() and driver.take() is None
    assert len(two.source.source.records()) == 1


def test_earlier_losses_of_a_run_do_not_count_against_its_further_training(join):
    planned, joined = join
    one = joined()
    told(one, one.take(), "lost")
    for _ in range(3):
        told(one, one.take())
    (planned.jobs()[0].folder / WEIGHTS).unlink()
    shutil.rmtree(planned.jobs()[1].folder)
    two = joined()
    first = two.take()
    assert (first.arm, first.retrained) == ("first", True)
    told(two, first, "lost")
    again = two.take()
    assert (again.arm, again.retrained) == ("first", True)


def test_a_training_for_weights_that_fails_ends_the_study_for_drivers_that_share_it(join):
    planned, joined = join
    places = finished(planned)
    (places["then"] / WEIGHTS).unlink()
    shutil.rmtree(places["last"])
    one = joined()
    then = one.take()
    assert then.retrained and told(one, then, "failed")
    last = one.take()
    assert (last.arm, last.needs) == ("last", [places["then"]])
    assert not told(one, last, "failed")
    assert RunRecord.read(places["then"]).status == "finished"


def test_tuning_trains_once_more_only_for_trials_that_are_to_do(plan_study, study_data, console):
    """A kept copy has no database of trials: all are asked for again, and those whose runs are finished read no weights."""
    tune = {"space": {"optimizer.lr": {"low": 1e-2, "high": 4e-2, "points": 3}}, "seeds": 1, "sampler": "grid"}
    data = study_data | {"arms": {"a": {"init_from": {"run": "far"}}}, "runs": {"far": {"optimizer.lr": 1.1e-3}}, "seeds": 1}
    data |= {"tune": tune}
    whole = run_study(plan_study(data), 1, console, prepare=fakes.prepare)
    assert whole.complete and len(whole.trials) == 3
    weights = lambda: {path.parent for path in whole.study.folder.rglob(WEIGHTS)}  # noqa: E731
    for path in whole.study.folder.rglob(WEIGHTS):
        path.unlink()
    for database in whole.study.folder.glob("*.db*"):
        database.unlink()
    again = run_study(plan_study(data), 1, console, prepare=fakes.prepare)
    assert again.complete and not weights()
    for database in whole.study.folder.glob("*.db*"):
        database.unlink()
    lost = whole.study.folder / whole.trials[0].run
    shutil.rmtree(lost)
    again = run_study(plan_study(data), 1, console, prepare=fakes.prepare)
    assert again.complete and len(again.trials) == 3
    made = {path.relative_to(whole.study.folder).parts[0] for path in weights()}
    assert made == {"tune", "retrained"} and len(weights()) == 2
    said = console.file.getvalue()
    assert "far seed 1000: a run to do reads its weights, which are gone, so it is trained once more" in said


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
    kept = content(copy.folder)
    goes_on = run_study(planned("results"), 1, console)
    assert goes_on.complete, [each.message for each in goes_on.outcomes]
    read = lambda result: {(each.job.arm, each.job.seed): each.record.metrics for each in result.outcomes}  # noqa: E731
    assert read(goes_on) == read(whole)
    assert "teacher seed 1: a run to do reads its weights, which are gone, so it is trained once more" in console.file.getvalue()
    reused = {(each.job.arm, each.job.seed) for each in goes_on.outcomes if each.reused}
    assert reused == {("scratch", 0), ("taught", 0), ("teacher", 0), ("scratch", 1), ("teacher", 1)}
    changed = {path for path, each in content(copy.folder).items() if kept.get(path) != each}
    places = {Path(lost.folder).relative_to(copy.folder), Path("retrained"), Path("logs"), Path("study.json")}
    assert all(any(path.is_relative_to(place) for place in places) for path in changed), changed
    assert not list(copy.folder.glob("scratch-*/seed-*/model.safetensors"))


@pytest.mark.slow
def test_what_reads_the_teacher_can_be_measured_later(study_data, tmp_path, console):
    """The plan of a finished run does not say where its teacher lies; its record does."""
    distilled = {"objective": {"type": "distill", "teacher": {"run": "teacher"}}}

    def planned(more):
        arms = {"scratch": {}, "taught": distilled | more}
        data = study_data | {"arms": arms, "runs": {"teacher": {"optimizer.lr": 1e-2}}, "seeds": 1, "train": {"steps": 3}}
        spec, arms = study.check(document.node(data))
        return study.plan("taught", None, spec, arms, tmp_path / "runs")

    assert run_study(planned({}), 1, console).complete
    later = run_study(planned({"evaluate.report.distance": {"type": "teacher_distance"}}), 1, console)
    assert later.complete, [each.message for each in later.outcomes]
    taught = next(each for each in later.outcomes if each.job.arm == "taught")
    assert any("teacher" in name for name in taught.record.metrics), taught.record.metrics
