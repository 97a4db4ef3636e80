"""A search: what it may vary, what it refuses, and that its queue loses nothing and trains nothing in vain."""

import itertools
import random

import pytest
import sweeps_fakes as fakes
from optuna.trial import TrialState
from search_cases import SEARCH, SPACE, WINDOW, done, finish, queue, states

from arch import document
from arch.errors import SpecError
from experiments import plan as experiment
from sweeps import show
from sweeps import study as studies
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.search import arms, space, winners
from sweeps.spec import split


def test_a_conditional_parameter_exists_only_where_its_choice_is_taken(searched):
    search = queue(searched(trials=20))
    jobs = list(iter(search.take, None))
    assert len(jobs) == 20
    taken = set()
    for job, values in [(job, search.values(job.trial)) for job in jobs]:
        taken.add(values["mixer"])
        mixer = job.plan.spec.model.blocks["local"].mixer
        if values["mixer"] == "attention":
            assert values.keys() == {"optimizer.lr", "mixer", WINDOW} and mixer["window"] == values[WINDOW]
        else:
            assert values.keys() == {"optimizer.lr", "mixer", "model.blocks.local.mixer.width"}
            assert mixer["type"] == "rg_lru" and mixer["width"] == values["model.blocks.local.mixer.width"] in (8, 16, 24, 32)
    assert taken == {"attention", "recurrence"}


def test_a_trial_beyond_a_limit_trains_nothing_and_says_why(searched):
    planned = searched(trials=20, subject_to={"cost/parameters": {"most": 4000}})
    search = queue(planned)
    finish(search)
    records = search.records()
    assert {record.state for record in records} == {"finished", "infeasible"}
    for record in records:
        beyond = record.values.get(WINDOW) == 8
        assert (record.state == "infeasible") == beyond == (record.constraints["cost/parameters"] > 0)
        if beyond:
            assert not record.run and record.seed is None and record.value is None
            assert record.why == "cost/parameters = 8,000 is above 4,000"
    trials = {trial.number: trial for trial in search.optuna.trials}
    assert all(trials[each.number].state == TrialState.COMPLETE for each in search.candidates())


def test_values_that_do_not_fit_together_are_infeasible_and_the_search_ends(searched, monkeypatch):
    fake = lambda source, made=None: fakes.plan(getattr(source, "document", None) or experiment.resolved(source).document)  # noqa: E731
    monkeypatch.setattr("experiments.plan.plan", fake)
    heads = "model.blocks.local.mixer.heads"
    both = {heads: {"choices": [2, 3]}, "model.blocks.local.mixer.kv_heads": {"choices": [1, 2]}}
    search = queue(searched(trials=None, space=both, sampler="grid"))
    finish(search)
    records = {(record.values[heads], record.values["model.blocks.local.mixer.kv_heads"]): record for record in search.records()}
    assert len(records) == 4 and search.take() is None
    assert records[3, 2].state == "infeasible" and "heads" in records[3, 2].why and not records[3, 2].run
    assert [records[key].state for key in ((2, 1), (2, 2), (3, 1))] == ["finished"] * 3


def test_objectives_that_are_all_costs_need_no_run(searched):
    search = queue(searched(minimise=["cost/parameters", "cost/cache_bytes@64"], trials=12))
    assert search.total == 0 and search.take() is None
    assert set(states(search)) == {"finished"} and all(not record.run for record in search.records())
    found = arms.found(search)
    assert {space.recorded(search.axes, search.values(number)).get(WINDOW) for number in found.front} == {None}, (
        "a recurrence keeps nothing"
    )


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "nsgaiii", "random", "brute_force"])
def test_the_samplers_search_conditional_spaces(searched, sampler):
    whole = {**SPACE, "optimizer.lr": {"choices": [1e-3, 1e-2]}}
    planned = searched(space=whole, sampler=sampler, minimise=["select/loss", "cost/cache_bytes@64"], trials=14)
    search = queue(planned)
    finish(search)
    assert states(search) == ["finished"] * 14 and search.take() is None
    if sampler == "brute_force":
        assert search.limit == 14 == len({tuple(sorted(record.values.items())) for record in search.records()})


@pytest.mark.parametrize("sampler", ["gp", "qmc", "grid", {"type": "tpe", "multivariate": False}])
def test_the_other_samplers_search_plain_spaces(searched, sampler):
    plain = {"optimizer.lr": {"low": 1e-3, "high": 1e-1, "points": 4}, "model.layers": {"low": 1, "high": 3, "log": False}}
    search = queue(searched(space=plain, sampler=sampler, trials=12))
    finish(search)
    assert states(search) == ["finished"] * 12
    assert {record.values["model.layers"] for record in search.records()} == {1, 2, 3}
    if sampler == "grid":
        assert len({tuple(record.values.values()) for record in search.records()}) == 12


def test_a_killed_search_goes_on_where_it_was(searched):
    planned = searched(trials=5, sampler="tpe")
    killed = queue(planned)
    first, second = killed.take(), killed.take()
    done(killed, first)
    half = killed.optuna.ask()  # killed before the trial had a value
    again = queue(planned)
    jobs = list(iter(again.take, None))
    assert jobs[0].folder == second.folder and jobs[0].trial == second.trial and len(jobs) == 4
    for job in jobs:
        done(again, job)
    assert again.take() is None and len(again.records()) == 5 and set(states(again)) == {"finished"}
    assert again.optuna.trials[half.number].state == TrialState.FAIL
    assert queue(planned).take() is None


def test_what_ended_while_nobody_looked_is_told_at_the_next_start(searched):
    planned = searched(trials=1)
    job = queue(planned).take()
    job.folder.mkdir(parents=True)
    fakes.record(job.plan, job.seed, "finished", metrics={"select/loss": 1.5}).write(job.folder)
    again = queue(planned)
    assert again.take() is None and again.optuna.trials[0].value == 1.5


def test_two_processes_on_one_storage_do_not_exceed_the_trials(searched):
    planned = searched(trials=5)
    one, other = queue(planned), queue(planned, alone=False)
    jobs = [search.take() for search in (one, other, one, other)]
    assert len({job.trial for job in jobs[:1]}) == 1
    while one.ask() | other.ask():
        pass
    counted = [trial for trial in one.optuna.trials if not trial.user_attrs.get("surplus")]
    assert len(counted) == 5
    # Both asked at the same moment: the later trial finds itself beyond the limit and counts for nothing.
    late = one.optuna.ask()
    one._begin(late, space.suggested(one.axes, late))
    assert one.optuna.trials[-1].state == TrialState.FAIL and len(one.records()) == 5
    ready = [job.folder for job in one.ready()]
    assert ready == [job.folder for job in other.ready()] and len(ready) == 5
    for job in list(one.ready()):
        done(other, job)
    one.settle()
    assert set(states(one)) == {"finished"}


def test_what_the_machine_failed_is_tried_again_and_what_the_values_failed_is_not(searched):
    planned = searched(trials=3)
    search = queue(planned)
    lost, nan, fine = iter(search.take, None)
    done(search, lost, "failed", failure=fakes.Failure(step=1, error="OSError", message="disk full"))
    done(search, nan, "failed", failure=fakes.Failure(step=1, error="NonFinite", message="the loss is nan"))
    done(search, fine)
    assert search.take() is None and states(search) == ["failed", "failed", "finished"]
    assert "the loss is nan" in search.records()[1].why
    again = queue(planned)
    (job,) = iter(again.take, None)
    assert job.folder == lost.folder and search.values(lost.trial) == again.values(job.trial)
    done(again, job)
    assert queue(planned).take() is None and len(again.candidates()) == 2


def test_several_seeds_count_by_their_mean(searched):
    search = queue(searched(trials=1, seeds=2))
    first, second = iter(search.take, None)
    assert (first.seed, second.seed) == (1000, 1001) and first.folder != second.folder
    done(search, first, loss=1.0)
    assert states(search) == ["running", "running"]
    done(search, second, loss=2.0)
    assert search.optuna.trials[0].value == 1.5
    assert [(record.seed, record.value) for record in search.records()] == [(1000, 1.0), (1001, 2.0)]


def test_more_trials_and_another_sampler_continue_a_search(searched):
    search = queue(searched(trials=2))
    finish(search)
    more = queue(searched(trials=3, sampler="tpe"))
    assert more.name == search.name and len(list(iter(more.take, None))) == 1
    assert queue(searched(trials=3, subject_to={"cost/parameters": {"most": 4000}})).name != search.name


def points(*harms):
    return [winners.Candidate(i, f"{i}", harm) for i, harm in enumerate(harms)]


def test_the_front_is_what_nothing_dominates_and_no_experiment_is_twice_in_it():
    draw = random.Random(0)
    candidates = points(*((draw.random(), draw.random(), draw.random()) for _ in range(40)))
    front = winners.front(candidates)
    for one, other in itertools.permutations(front, 2):
        assert not winners.dominates(one.harms, other.harms)
    for each in candidates:
        assert each in front or any(winners.dominates(other.harms, each.harms) for other in front)
    twin = winners.Candidate(99, front[0].identity, front[0].harms)
    assert winners.front([*candidates, twin]) == front


def test_the_winners_of_one_objective_are_the_best_that_differ():
    candidates = points((3.0,), (1.0,), (2.0,), (1.0,), (0.5,))
    twin = winners.Candidate(9, "4", (0.5,))
    assert [each.number for each in winners.chosen([*candidates, twin], 3)] == [4, 1, 3]
    assert len(winners.chosen(candidates, 9)) == 5 and winners.chosen([], 3) == []


def test_the_winners_of_two_objectives_span_the_front():
    front = [(i / 10, (1 - i / 10) ** 2) for i in range(11)]
    candidates = points(*front, *((x + 0.1, y + 0.1) for x, y in front))
    three = winners.chosen(candidates, 3)
    numbers = [each.number for each in three]
    assert all(number < 11 for number in numbers) and numbers == sorted(numbers)
    best = max(itertools.combinations(front, 3), key=winners.volume)
    spanned = winners.volume([each.harms for each in three])
    assert spanned > 0.95 * winners.volume(best)
    # A front that is smaller than the number of winners is followed by the next one.
    assert [each.number for each in winners.chosen(points((0.0, 0.0), (1.0, 1.0), (2.0, 2.0)), 2)] == [0, 1]


def test_the_hypervolume_is_the_share_of_random_points_that_are_dominated():
    draw = random.Random(1)
    for objectives in (1, 2, 3, 4):
        those = [[draw.random() for _ in range(objectives)] for _ in range(6)]
        tried = [[draw.uniform(0, 1.1) for _ in range(objectives)] for _ in range(20_000)]
        share = sum(any(all(x <= y for x, y in zip(a, b, strict=True)) for a in those) for b in tried) / len(tried)
        assert winners.volume(those) == pytest.approx(share * 1.1**objectives, abs=0.02)


def test_winners_train_on_fresh_seeds_and_are_judged(searched, console):
    planned = searched(judge=2, trials=4, space={"optimizer.lr": {"low": 1e-2, "high": 1e-1}})
    assert planned.record().plan.questions == 3, "two arms and two winners: counted before the search"
    result = run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert result.complete and list(record.arms) == ["1:1", "all local", "best 1", "best 2"]
    rates = {trial.number: trial.values["optimizer.lr"] for trial in record.trials}
    best = sorted(rates, key=lambda number: abs(rates[number] - 2e-2))
    assert record.search["winners"] == {"best 1": best[0], "best 2": best[1]}
    for label, number in record.search["winners"].items():
        assert record.arms[label].differences["optimizer.lr"][1] == rates[number]
        assert record.arms[label].runs.keys() == {"0", "1"}
    tried = {trial.run for trial in record.trials}
    reported = {run for arm in record.arms.values() for run in arm.runs.values()}
    assert not tried & reported and {trial.seed for trial in record.trials} == {1000}
    again = run_study(searched(judge=2, trials=4, space={"optimizer.lr": {"low": 1e-2, "high": 1e-1}}), 1, console, None)
    second = StudyRecord.read(planned.folder)
    assert again.complete
    assert {key: value for key, value in second.dump().items() if record.dump()[key] != value} == {}


def test_fewer_feasible_trials_than_winners_leave_arms_without_runs(searched, console):
    heavy = {WINDOW: {"choices": [2, 8]}}
    limit = {"cost/parameters": {"most": 4000}}
    planned = searched(space=heavy, sampler="grid", trials=None, subject_to=limit, judge=2, minimise="cost/parameters")
    result = run_study(planned, 1, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert record.arms["best 1"].runs and not record.arms["best 2"].runs and result.untuned == ["best 2"]
    assert any("best 2 has no runs" in note for note in record.choices)


def test_a_claim_may_name_a_winner(plan_study, search_data):
    claims = {"q": {"type": "equivalent", "known_worse": ["best 1"]}}
    spec, _ = studies.check(document.node(search_data | {"search": SEARCH, "claims": claims}))
    assert list(spec.arms) == ["1:1", "all local", "best 1"]
    with pytest.raises(SpecError, match="best 2"):
        claims = {"q": {"type": "equivalent", "known_worse": ["best 2"]}}
        studies.check(document.node(search_data | {"search": SEARCH, "claims": claims}))


REFUSED = {
    "low = 0.1 must be below high = 0.01": {"space": {"optimizer.lr": {"low": 0.1, "high": 0.01}}},
    "must be above 0 on a log scale": {"space": {"optimizer.lr": {"low": 0, "high": 0.01}}},
    "is not a whole number of steps": {"space": {"model.layers": {"low": 1, "high": 4, "step": 2}}},
    "unknown key": {"space": {"optimizer.rate": {"low": 1e-3, "high": 1e-2}}},
    "did you mean 'choices'": {"space": {"mixer": {"choses": [1, 2]}}},
    "did you mean 'set'": {"space": {"mixer": {"choices": {"a": {"sat": {}}, "b": {}}}}},
    "expected whole numbers for low, high and step": {"space": {"model.layers": {"low": 1.5, "high": 4, "log": False}}},
    "mixer = b does not fit: ": {"space": {"mixer": {"choices": {"a": {}, "b": {"set": {"model.pattern": ["nope"]}}}}}},
    "expected at least two": {"space": {"model.layers": {"choices": [1]}}},
    "is named twice": {"space": {"model.layers": {"choices": [1, 1]}}},
    "is a dimension twice": {
        "space": {WINDOW: {"choices": [2, 4]}, "m": {"choices": {"a": {"space": {WINDOW: {"choices": [2, 4]}}}, "b": {}}}}
    },
    "has another range in another choice": {
        "space": {"m": {"choices": {n: {"space": {WINDOW: {"choices": [2, n_]}}} for n, n_ in (("a", 4), ("b", 8))}}}
    },
    "set by two dimensions at once": {
        "space": {WINDOW: {"choices": [2, 4]}, "m": {"choices": {"a": {"set": {WINDOW: 8}}, "b": {}}}}
    },
    "lies within model.blocks.local.mixer, which another dimension sets as a whole": {
        "space": {WINDOW: {"choices": [2, 4]}, "m": {"choices": {"a": {"set": {"model.blocks.local.mixer": {}}}, "b": {}}}}
    },
    "the report split is not for choosing": {"minimise": "report/loss"},
    "no run of arm '1:1' has the metric 'select/los'; did you mean 'select/loss'": {"minimise": "select/los"},
    "no cost 'cost/parameter'; did you mean 'cost/parameters'": {"minimise": ["cost/parameter"]},
    "lower is better; expected `minimise`": {"minimise": [], "maximise": ["select/loss"]},
    "expected `minimise` or `maximise`": {"minimise": []},
    "is not known before training; expected a cost": {"subject_to": {"select/loss": {"most": 1}}},
    "no cost 'cost/cash'": {"subject_to": {"cost/cash": {"most": 1}}},
    "expected `most`, `least` or both": {"subject_to": {"cost/parameters": {}}},
    "no sampler 'tpee'; did you mean 'tpe'": {"sampler": "tpee"},
    "TPESampler has no option 'n_startup'; did you mean 'n_startup_trials'": {"sampler": {"type": "tpe", "n_startup": 3}},
    "expected int, got 'many'": {"sampler": {"type": "tpe", "n_startup_trials": "many"}},
    "'gp' cannot search model.blocks.local.mixer.window, which exists only where": {"sampler": "gp"},
    "use `brute_force`": {"sampler": "grid", "trials": None},
    "expected `step` or `points`": {"sampler": "grid", "space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}},
    "'cmaes' needs the package": {"sampler": "cmaes"},
    "whose values are choices": {"sampler": "qmc", "space": {WINDOW: {"choices": [2, 4]}}},
    "needs a number of trials": {"trials": None},
    "no pruner 'medium'; did you mean 'median'": {"pruner": "medium"},
    "MedianPruner has no option 'warmup'": {"pruner": {"type": "median", "warmup": 3}},
    "PercentilePruner needs it": {"pruner": "percentile"},
    "several objectives has no pruner": {"pruner": "median", "minimise": ["select/loss", "cost/parameters"]},
    "is not measured while a run trains": {"pruner": "median", "minimise": "cost/parameters"},
    "expected `seeds` of at least 2": {"pruner": "wilcoxon"},
    "expected 1 <= min_resource <= max_resource": {"pruner": {"type": "hyperband", "min_resource": 0}},
    "min_resource = 99, and a run has 12 steps: it would never prune": {
        "pruner": {"type": "patient", "wrapped": {"type": "hyperband", "min_resource": 99}, "patience": 1}
    },
    "a reduction_factor of at least 2": {"pruner": {"type": "hyperband", "reduction_factor": 1}},
    "Optuna refuses it: ": {"pruner": {"type": "successive_halving", "min_resource": 0}},
    "4 winners of 3 trials; expected at most as many as trials": {"trials": 3, "judge": 4},
    "1 is a reported seed": {"first_seed": 1},
    "no arm '1:2'; did you mean '1:1'": {"base": "1:2"},
    "cannot follow a range that grows": {"widen": 2, "sampler": "nsgaii"},
}


def test_a_choice_may_set_a_mixer_and_bring_a_width_of_it(search_data):
    brings = {"set": {"model.blocks.local.mixer": {}}, "space": {WINDOW: {"choices": [2, 4]}}}
    search = {**SEARCH, "space": {"m": {"choices": {"a": brings, "b": {}}}}}
    studies.check(document.node(search_data | {"search": search}))


def test_the_preview_counts_the_points_of_a_grid(search_data):
    """Without `trials`, a grid is searched whole: three points below one choice and one below the other, two seeds each."""
    branches = {"a": {"space": {WINDOW: {"choices": [2, 4, 6]}}}, "b": {}}
    search = {**SEARCH, "space": {"m": {"choices": branches}}, "sampler": "brute_force", "trials": None, "seeds": 2}
    spec, arms = studies.check(document.node(search_data | {"search": search}))
    data = show.preview("asked", None, spec, arms)["search"]
    assert data["trials"] == 4 and data["runs"] == 8 and data["tokens"] > 0


@pytest.mark.parametrize("reason", REFUSED)
def test_a_search_that_cannot_be_done_is_refused(search_data, reason):
    with pytest.raises(SpecError) as caught:
        studies.check(document.node(search_data | {"search": {**SEARCH, **REFUSED[reason]}}))
    assert reason in str(caught.value)


def test_an_error_names_the_line_of_the_study(tmp_path, corpus_file):
    path = tmp_path / "study.yaml"
    path.write_text(
        "extends: experiments/tiny_gemma3\nquestion: q\narms: {a: {}}\nsearch:\n  minimise: select/loss\n  trials: 3\n  space:\n"
        "    mixer:\n      choices:\n        one: {}\n        two: {set: {model.dmi: 3}}\n"
    )
    with pytest.raises(SpecError) as caught:
        studies.check(document.load(str(path), "sweeps"))
    assert caught.value.line == 11 and "did you mean 'dim'" in str(caught.value)
    assert str(caught.value).startswith(f"{path}:11: search.space.mixer.choices.two")


def test_tune_and_search_do_not_stand_together(search_data):
    tune = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}}
    with pytest.raises(SpecError, match="do not stand together"):
        studies.check(document.node(search_data | {"search": SEARCH, "tune": tune}))
    ladder = {"sizes": {"s": {"model.dim": 8}, "m": {}}}
    with pytest.raises(SpecError, match="`ladder` and `search` do not stand together: a winner has one size; search in a study of"):
        studies.check(document.node(search_data | {"search": SEARCH, "ladder": ladder}))
    with pytest.raises(SpecError, match="are the winners of the search"):
        studies.check(document.node(search_data | {"search": SEARCH, "arms": {"a": {}, "best 1": {}}}))


def test_a_scale_may_drop_the_search(search_data):
    asked = document.node(search_data | {"search": SEARCH, "scales": {"small": {"search": None}}})
    spec, _, _ = split(asked, "small")
    assert spec.search is None and list(spec.arms) == [label for label in split(asked)[0].arms if label != "best 1"]


def test_trials_spend_the_tokens_of_the_budget(search_data):
    asked = search_data | {"budget": {"tokens": 1000}}
    studies.check(document.node(asked | {"search": SEARCH}))
    for varied in ({"data.rows": {"choices": [2, 4]}}, {"r": {"choices": {"a": {}, "b": {"set": {"train.steps": 3}}}}}):
        with pytest.raises(SpecError, match="how many tokens a trial trains on, which `budget` makes equal"):
            studies.check(document.node(asked | {"search": {**SEARCH, "space": varied}}))


def test_the_shipped_search_is_sound_at_every_scale():
    root = document.load("search/quality_vs_cache", "sweeps")
    for scale in ("smoke", "demo"):
        spec, found = studies.check(root, scale)
        assert spec.search.judge and len(found) == 2 + spec.search.judge
    assert spec.search.trials >= 60 and set(spec.search.objectives) == {"select/loss", "cost/cache_bytes@32768"}


def test_trials_start_from_a_helper_run_and_so_do_the_winners(searched, search_data, console):
    search_data |= {"runs": {"pretrained": {"train.steps": 3}}}
    search_data["arms"] = {"1:1": {}, "next": {"init_from": {"run": "pretrained"}}}
    planned = searched(base="next", space={"optimizer.lr": {"low": 1e-2, "high": 1e-1}}, trials=2)
    result = run_study(planned, 1, console, fakes.prepare)
    assert result.complete and {trial.state for trial in result.trials} == {"finished"}
    made = {path.parent.name for path in planned.folder.glob("pretrained-*/*/record.json")}
    assert made == {"seed-0", "seed-1", "seed-1000"}
    best = next(outcome.job for outcome in result.outcomes if outcome.job.arm == "best 1")
    assert [folder.parent.name.startswith("pretrained-") for folder in best.needs] == [True]
    with pytest.raises(SpecError, match="changes which run"):
        other = {"w": {"choices": {"a": {}, "b": {"set": {"init_from": {"run": "1:1"}}}}}}
        searched("other", base="next", space=other)
