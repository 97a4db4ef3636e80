"""Pruning of a search: a run that falls behind ends, its curve stays, and a resumed run reports no step twice."""

import sweeps_fakes as fakes
from optuna.trial import TrialState
from search_cases import done, queue, states

from sweeps.run import run_study

PLAIN = {"optimizer.lr": {"low": 1e-3, "high": 1e-1}}
MEDIAN = {"type": "median", "n_startup_trials": 2}


def progress(step, loss, steps=12):
    return {"step": step, "steps": steps, "loss": 3.0, "selected": {"select/loss": loss}}


def with_two_good_trials(planned):
    search = queue(planned)
    for _ in range(2):
        job = search.take()
        assert not search.progressed(job, progress(4, 1.0)) and not search.progressed(job, progress(8, 0.9))
        done(search, job, loss=0.9)
    return search


def test_a_run_that_falls_behind_is_pruned_and_keeps_its_curve(searched):
    search = with_two_good_trials(searched(space=PLAIN, pruner=MEDIAN, trials=4))
    worse, better = search.take(), search.take()
    assert not search.progressed(better, progress(4, 0.5))
    assert search.progressed(worse, progress(4, 2.0))
    done(search, worse, "pruned")
    done(search, better, loss=0.5)
    record = search.records()[worse.trial]
    assert record.state == "pruned" and record.run and record.why == "pruned at step 2 of 12"
    assert search.optuna.trials[worse.trial].intermediate_values == {4: 2.0}
    assert states(search) == ["finished", "finished", "pruned", "finished"]
    assert worse.trial not in [each.number for each in search.candidates()]


def test_nothing_is_pruned_at_its_last_step_or_without_a_pruner(searched):
    search = with_two_good_trials(searched(space=PLAIN, pruner=MEDIAN, trials=4))
    job = search.take()
    assert not search.progressed(job, progress(12, 9.0)) and not search.progressed(job, {"step": 4, "steps": 12, "selected": {}})
    free = with_two_good_trials(searched("free", space=PLAIN, trials=4))
    assert not free.progressed(free.take(), progress(4, 9.0))


def test_a_resumed_run_reports_a_step_once(searched):
    planned = searched(space=PLAIN, pruner=MEDIAN, trials=3)
    search = with_two_good_trials(planned)
    job = search.take()
    search.progressed(job, progress(4, 0.7))
    again = queue(planned)
    resumed = again.take()
    assert (resumed.trial, resumed.folder) == (job.trial, job.folder)
    assert not again.progressed(resumed, progress(4, 0.8))
    assert again.optuna.trials[job.trial].intermediate_values == {4: 0.7}


def test_the_first_seed_decides_before_the_others_start(searched):
    search = queue(searched(space=PLAIN, pruner=MEDIAN, trials=2, seeds=3))
    first, other = search.take(), search.take()
    assert first.trial != other.trial and search.take() is None, "further seeds wait"
    done(search, first, loss=1.0)
    second, third = search.take(), search.take()
    assert [(job.trial, job.seed) for job in (second, third)] == [(first.trial, 1001), (first.trial, 1002)]
    assert not search.progressed(second, progress(4, 99.0)), "only the first seed's curve is compared"
    done(search, other, "pruned")
    assert search.take() is None and [record.state for record in search.records()][-1] == "pruned"


def test_wilcoxon_compares_trials_seed_by_seed(searched):
    pruner = {"type": "wilcoxon", "p_threshold": 0.2, "n_startup_steps": 2}
    search = queue(searched(space=PLAIN, pruner=pruner, trials=2, seeds=6, first_seed=2000))
    best = [(job := search.take(), done(search, job, loss=1.0 + 0.1 * (job.seed - 2000)))[0] for _ in range(6)]
    assert [job.seed for job in best] == list(range(2000, 2006)) and len({job.trial for job in best}) == 1
    ran = []
    while job := search.take():
        ran.append(job.seed)
        done(search, job, loss=2.0 + 0.1 * (job.seed - 2000))
    assert ran == list(range(2000, 2000 + len(ran))) and 2 <= len(ran) < 6
    trial = search.optuna.trials[1]
    assert trial.state == TrialState.PRUNED and trial.intermediate_values == {i: 2.0 + 0.1 * i for i in range(len(ran))}
    assert f"on its first {len(ran)} seeds" in search.records()[-1].why


def test_the_driver_ends_the_run_of_a_pruned_trial(searched, console, monkeypatch):
    """End to end, with workers: the fake training reports a loss at step 4 and waits for the word to end."""
    planned = searched(space={"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, pruner=MEDIAN, trials=4, judge=1, sampler="random")
    result = run_study(planned, 1, console, fakes.prepare_pruned)
    ends = [trial.state for trial in result.trials]
    assert ends[:2] == ["finished", "finished"] and ends.count("pruned") == 2
    assert all("pruned at step 4" in trial.why for trial in result.trials if trial.state == "pruned")
