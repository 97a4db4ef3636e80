"""A grid grows where an arm's best lies at its end: by one rule for all arms and processes, and no farther than asked."""

import math

import optuna
import pytest
import sweeps_fakes as fakes

from arch import document
from arch.errors import SpecError
from arch.spec import value_at
from sweeps import outline, show, space, study
from sweeps.job import Outcome
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.spec import Range, TuneSpec
from sweeps.tune import Tuner

LR = "optimizer.lr"
# 1e-3, 2e-3, 4e-3; one step beyond is a factor of 2.
SPAN = {"low": 1e-3, "high": 4e-3, "points": 3}


@pytest.fixture
def planned(plan_study, study_data):
    """planned(space, **tune) gives a StudyPlan that tunes over `space` and creates its folder."""

    def made(asked, **tune):
        plan = plan_study(study_data | {"tune": {"space": asked, **tune}})
        plan.folder.mkdir(parents=True, exist_ok=True)
        return plan

    return made


def at_best(rate):
    """The loss of a job whose best rate is `rate`, and twice that for each further tuning seed."""
    return lambda job: (math.log2(job.plan.spec.optimizer["lr"] / rate) - (job.seed - 1000)) ** 2


def told(tuner, job, value):
    """Tell a tuner what a job measured; it failed where that is None."""
    ended = {"status": "finished", "metrics": {"select/loss": value}}
    if value is None:
        ended = {"status": "failed", "failure": fakes.Failure(step=1, error="NonFinite", message="nan")}
    record = fakes.record(job.plan, job.seed, **ended)
    tuner.told(Outcome(job, record.status, record))


def searched(tuner, loss):
    """Do the jobs of a tuner until there are none. Returns the values of the first key that it tried, in turn."""
    tried = []
    while job := tuner.take():
        tried.append(job)
        told(tuner, job, loss(job))
    return [job.plan.spec.optimizer["lr"] for job in tried]


@pytest.mark.parametrize(
    ("best", "beyond", "further", "edge"),
    [
        (2e-3, 3, [], False),
        (5e-4, 3, [5e-4, 2.5e-4], False),
        (6e-4, 3, [5e-4, 2.5e-4], False),
        (1.6e-2, 3, [8e-3, 1.6e-2, 3.2e-2], False),
        (1.6e-2, 2, [8e-3, 1.6e-2], True),
        (1e-6, 2, [5e-4, 2.5e-4], True),
        (1e-6, 0, [], True),
    ],
)
def test_the_next_point_is_tried_while_the_best_is_at_the_end(planned, best, beyond, further, edge):
    plan = planned({LR: {**SPAN, "beyond": beyond}})
    tuner = Tuner(plan, plan.arms[0])
    tried = searched(tuner, at_best(best))
    assert tried == [1e-3, pytest.approx(2e-3), 4e-3, *map(pytest.approx, further)]
    assert tuner.is_over and tuner.runs_left() == 0
    chosen = tuner.chosen()
    if not edge:
        assert chosen.values == [{LR: pytest.approx(best, rel=5e-3)}]  # three digits of a vertex
    lines = space.edges(chosen.searched, "a", chosen.values)
    assert len(lines) == edge
    if edge and beyond:
        assert f"end of {min(tried):g} to {max(tried):g}" in lines[0]


def test_points_of_the_grid_stay_the_same_to_the_bit_and_ends_are_written_ones():
    span = Range(low=0.005, high=0.02, points=4, beyond=3)
    for below, above in ((0, 0), (2, 0), (0, 3), (3, 3)):
        wide = span.widened(below, above)
        assert wide.values()[below : below + 4] == span.values() and wide.points == len(wide.values())
        assert wide.low == wide.values()[0] and wide.high == wide.values()[-1]
        assert wide.values() == sorted(wide.values())
    assert span.values()[0] == 0.005 and span.values()[-1] == 0.02


def test_what_is_refused_is_a_bound_and_not_tried(planned):
    """A share is between 0 and 1."""
    plan = planned({"schedule.final": {"low": 0.4, "high": 0.9, "points": 2, "log": False, "beyond": 3}})
    tuner = Tuner(plan, plan.arms[0])
    tried = []
    while job := tuner.take():
        tried.append(job.plan.spec.schedule["final"])
        told(tuner, job, -tried[-1])
    assert tried == [0.4, 0.9]
    low = planned({"schedule.final": {"low": 0.4, "high": 0.6, "points": 2, "log": False, "beyond": 3}})
    tuner, tried = Tuner(low, low.arms[0]), []
    while job := tuner.take():
        tried.append(job.plan.spec.schedule["final"])
        told(tuner, job, tried[-1])
    assert tried[:3] == [0.4, 0.6, pytest.approx(0.2)] and all(0 <= each < 0.1 for each in tried[3:]) and len(tried) <= 4


def test_whole_numbers_stay_whole_and_their_like_is_skipped(planned):
    plan = planned({"model.layers": {"low": 3, "high": 4, "points": 2, "beyond": 4}})
    tuner, tried = Tuner(plan, plan.arms[0]), []
    while job := tuner.take():
        tried.append(job.plan.spec.model.layers)
        told(tuner, job, abs(tried[-1] - 1))
    # 3, 4 and the steps of a factor of 4/3 below: 2.25, 1.69, 1.27, 0.95.
    assert tried == [3, 4, 2, 1] and tuner.is_over


def test_a_point_beyond_that_fails_ends_the_growth(planned):
    plan = planned({LR: {**SPAN, "beyond": 3}})
    tuner = Tuner(plan, plan.arms[0])
    tried = searched(tuner, lambda job: None if job.plan.spec.optimizer["lr"] > 5e-3 else -job.plan.spec.optimizer["lr"])
    assert len(tried) == 4 and tried[-1] == pytest.approx(8e-3)
    chosen = tuner.chosen()
    assert chosen.values == [{LR: 4e-3}] and "failed" in chosen.notes[0]
    assert not space.edges(chosen.searched, "a", chosen.values)


def test_each_end_grows_for_the_seed_whose_best_is_there(planned):
    plan = planned({LR: {**SPAN, "beyond": 2}}, seeds=2)
    tuner = Tuner(plan, plan.arms[0])
    bests = {1000: 5e-4, 1001: 8e-3}
    tried = searched(tuner, lambda job: math.log2(job.plan.spec.optimizer["lr"] / bests[job.seed]) ** 2)
    assert len(tried) == 2 * 7 and sorted(set(tried)) == pytest.approx([2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    assert [each[LR] for each in tuner.chosen().values] == pytest.approx([5e-4, 8e-3], rel=5e-3)


def test_one_key_of_two_grows_with_all_values_of_the_other(planned):
    other = "optimizer.weight_decay"
    asked = {LR: {**SPAN, "beyond": 1}, other: {"low": 0.1, "high": 0.2, "points": 2, "beyond": 0}}
    plan = planned(asked)
    tuner = Tuner(plan, plan.arms[0])
    tried = []
    while job := tuner.take():
        here = job.plan.spec.optimizer
        tried.append((here["lr"], here["weight_decay"]))
        told(tuner, job, here["lr"] + here["weight_decay"])
    assert len(tried) == 6 + 2 and [rate for rate, _ in tried[6:]] == pytest.approx([5e-4, 5e-4])
    assert {decay for _, decay in tried[6:]} == {0.1, 0.2}
    chosen = tuner.chosen()
    assert chosen.values == [{LR: pytest.approx(5e-4), other: 0.1}]


def test_a_killed_search_goes_on_where_it_was(planned):
    plan = planned({LR: {**SPAN, "beyond": 3}})
    loss = at_best(2.5e-4)
    first = Tuner(plan, plan.arms[0])
    for _ in range(3):
        job = first.take()
        told(first, job, loss(job))
    job = first.take()
    assert job.plan.spec.optimizer["lr"] == pytest.approx(5e-4)
    again = Tuner(plan, plan.arms[0])
    assert again.runs_left() == 1 and not again.is_over
    assert searched(again, loss) == pytest.approx([5e-4, 2.5e-4, 1.25e-4])
    ended = Tuner(plan, plan.arms[0])
    assert ended.take() is None and ended.is_over and ended.chosen() == again.chosen()


def test_what_the_machine_failed_is_awaited_before_the_grid_grows(planned):
    plan = planned({LR: {**SPAN, "beyond": 3}})
    loss, tuner = at_best(5e-4), Tuner(plan, plan.arms[0])
    jobs = [tuner.take() for _ in range(3)]
    for job in jobs[:2]:
        told(tuner, job, loss(job))
    tuner.told(Outcome(jobs[2], "lost", None))
    assert tuner.take() is None, "what lies beyond an end is not known yet"
    again = Tuner(plan, plan.arms[0])
    assert searched(again, loss) == [4e-3, pytest.approx(5e-4), pytest.approx(2.5e-4)]


def test_two_processes_grow_the_same_grid(planned):
    plan, storage = planned({LR: {**SPAN, "beyond": 3}}), optuna.storages.InMemoryStorage()
    one, other = (Tuner(plan, plan.arms[0], storage) for _ in range(2))
    loss, rounds = at_best(2.5e-4), 0
    while not (one.is_over and other.is_over):
        rounds += 1
        while one.ask() | other.ask():
            pass
        ready = list(one.ready())
        assert ready and [job.folder for job in ready] == [job.folder for job in other.ready()]
        for i, job in enumerate(ready):
            job.folder.mkdir(parents=True, exist_ok=True)
            fakes.record(job.plan, job.seed, "finished", metrics={"select/loss": loss(job)}).write(job.folder)
            (one, other)[i % 2].settle()
        one.settle()
    assert rounds == 1 + 3
    assert len({record.values[LR] for record in one.records()}) == len(one.records()) == 3 + 3
    assert one.chosen() == other.chosen() and one.chosen().values == [{LR: pytest.approx(2.5e-4, rel=5e-3)}]


def test_a_study_runs_its_arms_at_what_was_found_beyond_and_says_at_which_end_it_stopped(planned, console):
    """The fake runs are best at a rate of 2e-2."""
    plan = planned({LR: {"low": 1e-4, "high": 1e-3, "points": 2, "beyond": 3}})
    result = run_study(plan, 2, console, fakes.prepare)
    record = StudyRecord.read(plan.folder)
    assert result.complete and not record.edges
    assert len(record.trials) == 2 * (2 + 2), "1e-2 is better than 1e-3 and than 1e-1"
    assert all(1e-3 < arm.tuned[LR][0] < 1e-1 for arm in record.arms.values())


def test_where_it_stops_at_its_last_point_that_is_said(planned, console):
    plan = planned({LR: {"low": 1e-5, "high": 1e-4, "points": 2, "beyond": 1}})
    run_study(plan, 2, console, fakes.prepare)
    record = StudyRecord.read(plan.folder)
    assert [arm.tuned[LR] for arm in record.arms.values()] == [[pytest.approx(1e-3)]] * 2
    assert len(record.edges) == 2 and all("the highest end of 1e-05 to 0.001" in edge for edge in record.edges)


@pytest.mark.parametrize(("seeds", "runs"), [(1, 2), (2, 8)])
def test_the_preview_says_how_many_runs_more_there_may_be(study_data, console, seeds, runs):
    data = study_data | {"tune": {"space": {LR: {**SPAN, "beyond": 2}}, "seeds": seeds}}
    spec, arms = study.check(document.node(data))
    shown = show.preview("asked", None, spec, arms)
    assert shown["total"]["tuning"]["runs"] == 2 * 3 * seeds and shown["total"]["tuning_beyond"] == 2 * runs
    with console.capture() as caught:
        show.printed(shown, console)
    assert f"and at most {2 * runs} runs more for tuning" in caught.get()
    few, many = 2 * (2 + 3 * seeds), 2 * (2 + 3 * seeds + runs)
    assert outline.outline(document.node(data), None).startswith(f"{few} to {many} runs")


def test_only_a_grid_grows_and_a_negative_number_is_refused(plan_study, study_data):
    tpe = {"space": {LR: {**SPAN, "beyond": 1}}, "sampler": "tpe", "trials": 3}
    with pytest.raises(SpecError, match="only a grid has points `beyond` its ends"):
        plan_study(study_data | {"tune": tpe})
    with pytest.raises(SpecError, match="beyond"):
        plan_study(study_data | {"tune": {"space": {LR: {**SPAN, "beyond": -1}}}})


def test_a_search_that_may_not_grow_is_written_as_before():
    """Its digest names its trials in storage, and the record of a study holds its space."""
    assert "beyond" not in TuneSpec(space={LR: SPAN}).dump()["space"][LR]
    assert TuneSpec(space={LR: SPAN | {"beyond": 2}}).dump()["space"][LR]["beyond"] == 2


def ends_of(planned, asked, measure, key, **tune):
    """(what was tried, the Choice, the sentences about ends) of a search over one key. measure: value -> loss; None failed."""
    plan = planned({key: asked}, **tune)
    tuner, tried = Tuner(plan, plan.arms[0]), []
    while job := tuner.take():
        tried.append(value_at(job.plan.spec.dump(), key))
        told(tuner, job, measure(tried[-1]))
    chosen = tuner.chosen()
    bounds = space.bounds(chosen.searched, plan.arms[0].arm, chosen.values)
    return tried, chosen, space.edges(chosen.searched, "a", chosen.values, bounds)


def test_a_point_far_below_on_a_log_scale_is_not_taken_for_the_lowest_of_the_range(planned):
    """1e-9 is nearer to 1e-8 than a millionth of the range."""
    asked = {"low": 1e-8, "high": 1e-1, "points": 8, "beyond": 2}
    measure = lambda eps: 1.0 if 5e-9 < eps < 5e-8 else 7.0 if eps < 5e-9 else 2.0  # noqa: E731
    tried, chosen, _ = ends_of(planned, asked, measure, "optimizer.eps")
    assert len(tried) == 9 and min(tried) == pytest.approx(1e-9)
    assert 5e-9 < chosen.values[0]["optimizer.eps"] < 5e-8


@pytest.mark.parametrize(
    ("asked", "last", "said"),
    [
        ({"low": 3, "high": 4, "points": 2, "beyond": 1}, 5, "the highest end of 3 to 5"),
        ({"low": 6, "high": 10, "points": 2, "beyond": 1}, 4, "the lowest end of 4 to 10"),
        ({"low": 2, "high": 5, "points": 3, "log": False, "beyond": 1}, 6, "the highest end of 2 to 6"),
    ],
)
def test_the_last_whole_number_that_was_allowed_is_said_to_be_an_end(planned, asked, last, said):
    outwards = -1 if last < asked["low"] else 1
    tried, chosen, lines = ends_of(planned, asked, lambda n: -outwards * n, "model.layers")
    assert tried[-1] == last and chosen.values == [{"model.layers": last}]
    assert len(lines) == 1 and said in lines[0]


def test_a_whole_number_on_a_log_scale_stays_above_zero_and_one_is_its_bound(planned):
    tried, chosen, lines = ends_of(planned, {"low": 1, "high": 2, "points": 2, "beyond": 3}, lambda n: n, "train.steps")
    assert tried == [1, 2] and chosen.values == [{"train.steps": 1}]
    assert chosen.searched.space["train.steps"].low == 1
    tried, chosen, lines = ends_of(planned, {"low": 2, "high": 4, "points": 2, "beyond": 3}, lambda n: n, "model.layers")
    assert tried == [2, 4, 1] and not lines, "no model has no layers"


def test_a_seed_whose_point_beyond_failed_keeps_its_own_best(planned):
    plan = planned({LR: {**SPAN, "beyond": 2}}, seeds=2)
    tuner = Tuner(plan, plan.arms[0])

    def loss(job):
        rate = job.plan.spec.optimizer["lr"]
        if job.seed == 1000:
            return None if rate > 5e-3 else -rate
        return abs(math.log2(rate / 2e-3))

    searched(tuner, loss)
    chosen = tuner.chosen()
    assert chosen.values == [{LR: 4e-3}, {LR: pytest.approx(2e-3)}]
    assert len(chosen.notes) == 1 and "a run of tuning seed 1000 failed, so this grid point is used" in chosen.notes[0]


@pytest.mark.parametrize("measure", [lambda n: 0.0, lambda rate: 0.0 if rate < 3e-3 else 1.0])
def test_where_the_end_is_no_better_than_the_point_beside_it_nothing_grows(planned, measure):
    tried, _, _ = ends_of(planned, {**SPAN, "beyond": 3}, measure, LR)
    assert len(tried) == 3


def test_a_whole_vertex_is_not_rounded_to_a_neighbour_that_was_worse(planned):
    tried, chosen, lines = ends_of(
        planned, {"low": 2, "high": 4, "points": 3, "beyond": 4}, {2: 1.0, 3: 0.99, 4: 2.0}.get, "model.layers"
    )
    assert tried == [2, 3, 4] and chosen.values == [{"model.layers": 3}] and not lines


def test_another_number_of_points_beyond_goes_on_with_the_same_search(planned):
    """Also with what failed: no point is tried twice."""
    loss = lambda job: None if 3e-3 < job.plan.spec.optimizer["lr"] < 5e-3 else at_best(1e-4)(job)  # noqa: E731
    tried = []
    for beyond in (0, 1, 3, 1):
        plan = planned({LR: {**SPAN, "beyond": beyond}})
        tuner = Tuner(plan, plan.arms[0])
        tried += searched(tuner, loss)
        low = 1e-3 / 2**beyond
        assert tuner.is_over and tuner.chosen().values == [{LR: pytest.approx(low)}]
    assert tried == pytest.approx([1e-3, 2e-3, 4e-3, 5e-4, 2.5e-4, 1.25e-4])


def test_points_that_no_number_can_be_are_refused_at_their_range(plan_study, study_data):
    with pytest.raises(SpecError, match="beyond = 1100: the values there would be 0 or infinite") as caught:
        plan_study(study_data | {"tune": {"space": {LR: {**SPAN, "beyond": 1100}}}})
    assert "tune.space.optimizer.lr" in str(caught.value)


def test_a_point_beyond_that_another_process_saw_fail_is_not_begun_again(planned):
    plan, storage = planned({LR: {**SPAN, "beyond": 1}}), optuna.storages.InMemoryStorage()
    one, other = (Tuner(plan, plan.arms[0], storage) for _ in range(2))
    while one.ask():
        pass
    for job in list(one.ready()):
        told(one, job, -job.plan.spec.optimizer["lr"])
    further = other._further(other.optuna.get_trials())
    assert one.ask()
    (job,) = one.ready()
    told(one, job, None)
    other.optuna.enqueue_trial(further[0])  # as the other process would have, a moment before it saw the first one's
    assert other.ask() and not list(other.ready()) and other.is_over
    assert sum(record.values[LR] > 5e-3 for record in other.records()) == 1
