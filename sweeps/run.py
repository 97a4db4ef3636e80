"""Run a planned study: tuning if the study asks for it, then every reported run that is missing, then the record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch.words import listed, times
from sweeps import looking, space
from sweeps import study as studies
from sweeps.job import Event, Outcome
from sweeps.pool import Pool, worker_count
from sweeps.queues import Runs
from sweeps.record import NAME, StudyRecord, TrialRecord
from sweeps.scale import at_scale
from sweeps.table import display
from sweeps.worker import trainer

LOGS = "logs"


@dataclass(frozen=True)
class Result:
    """A study's result: the StudyPlan with tuned values, the outcome of each reported run, the trials.

    edges: sentences about tuned values at an end of their range. untuned: labels of arms without a finished trial.
    """

    study: studies.StudyPlan
    outcomes: list[Outcome]
    trials: list[TrialRecord]
    edges: list[str]
    untuned: list[str]

    @property
    def complete(self):
        """Whether every reported run is finished."""
        return not self.untuned and all(outcome.status == "finished" for outcome in self.outcomes)


def run_study(study, workers, console, prepare=trainer):
    """Run what is missing of a StudyPlan and keep its study.json up to date.

    workers: the number of workers, or None for as many as the cores allow. Raises SpecError for too many workers
    (before anything is written), OSError if the study's folder cannot be written, KeyboardInterrupt when interrupted:
    the same call then resumes the study.
    """
    sample = study.jobs()
    worker_count(sample, workers)
    logs = study.folder / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    for remark in study.remarks():
        _say(console, f"warning: {remark}", "yellow")
    for arm in (each.arm for each in study.arms):
        for match in arm.matched:
            _say(console, f"matched: arm {arm.label!r}: {match.words}")
        if arm.budget:
            _say(console, f"budget: arm {arm.label!r}: {arm.budget.words}")
    counts = looking.first_counts(study.spec)
    # Before tuning, keep the record of an earlier start: it knows more than this start does so far.
    if study.spec.tune and not (study.folder / NAME).exists():
        study.record(dict.fromkeys(counts, 0)).write(study.folder)
    with _Workers(sample, workers, prepare, logs) as pools:
        tuning: dict[str, Any] = {"trials": [], "edges": []}
        if study.spec.tune:
            study, trials, edges, untuned = _tune(study, pools, console)
            tuning = {"trials": trials, "edges": edges}
            counts = {arm: 0 if arm in untuned else number for arm, number in counts.items()}
        outcomes = _look_by_look(study, counts, tuning, pools, console)
    untuned = [arm for arm, number in counts.items() if not number]
    return Result(study, outcomes, tuning["trials"], tuning["edges"], untuned)


def _look_by_look(study, counts, tuning, pools, console):
    """Run the seeds of each look, until every question is decided or the plan ends. Returns the Outcomes."""
    outcomes: dict[Path, Outcome] = {}
    looks, earlier = looking.history(study, study.record(counts))
    for each in earlier:
        _say(console, f"exploratory: {each.why} changed after a look at {times(each.looks[-1].seeds, 'seed')}", "yellow")
    ran, following = 0, counts
    while following is not None:
        counts = following
        kept = {**tuning, "looks": looks, "earlier": earlier}
        study.record(counts, **kept).write(study.folder)
        queue = Runs(f"{study.name}{at_scale(study.scale)}", study.jobs(counts))
        _work(queue, pools, console)
        ran += queue.total
        outcomes |= {outcome.job.folder: outcome for outcome in queue.outcomes()}
        # Another study may have finished a run meanwhile: write the record again with the final folder of each run.
        record = study.record(counts, **kept)
        rulings, following = looking.look(record, study.folder, counts)
        looks = looking.taken(rulings, max(counts.values()), looks)
        record.model_copy(update={"looks": looks}).write(study.folder)
        if following:
            going = [arm for arm, number in following.items() if number > counts[arm]]
            _say(
                console,
                f"at {times(max(counts.values()), 'seed')}: not all is decided; {listed(going)} go on to {max(following.values())}",
            )
    if not ran:
        console.print(f"all {len(outcomes)} runs are finished already", highlight=False)
    return list(outcomes.values())


def _say(console, text, style=None):
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Workers:
    """One pool for tuning and reported runs, created for the first job. With nothing to do, no pool is created."""

    def __init__(self, sample, asked, prepare, logs):
        """sample: jobs like those to come, which say how many cores a run takes."""
        self.sample, self.asked, self.prepare, self.logs, self.pool = sample, asked, prepare, logs, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.pool:
            self.pool.close()

    def sized(self, total):
        """The pool, sized for `total` jobs."""
        size = worker_count(self.sample, self.asked, total)
        if self.pool is None:
            self.pool = Pool(size, self.prepare, self.logs)
        self.pool.size = size
        return self.pool


def _work(queue, pools, console):
    """Do every job of a queue."""
    first = queue.take()
    if first is None:
        return
    ahead, pool = [first], pools.sized(queue.total)
    with display(console, f"{queue.title}, {pool.size} worker(s)", queue.known or [first], queue.done, queue.total) as show:

        def report(event):
            show(event)
            if event.outcome:
                for outcome in queue.told(event.outcome):
                    show(Event("ended", outcome.job, outcome=outcome))

        pool.run(lambda: ahead.pop() if ahead else queue.take(), report)


def _tune(study, pools, console):
    """Tune. Returns (the study with the best values, trials, sentences about edges, arms without a finished trial)."""
    from sweeps import tune

    with tune.only_one(study.folder, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)):
        tuners = {}
        for each in study.arms:
            # Arms that resolve to the same experiment share one search.
            if each.identities[0] not in tuners:
                tuners[each.identities[0]] = tune.Tuner(study, each)
        by_label = {each.arm.label: tuners[each.identities[0]] for each in study.arms}

        old = StudyRecord.read_whole(study.folder)

        def keep(trials):
            # It stays until the runs start: what was looked at must not be forgotten.
            if not (old and looking.begun(old)):
                study.record(dict.fromkeys(by_label, 0), trials).write(study.folder)

        _work(tune.Search(study, list(tuners.values()), keep), pools, console)
        trials = [record for tuner in tuners.values() for record in tuner.records()]
        chosen = {label: tuner.chosen(label) for label, tuner in by_label.items()}
    study = studies.tuned(study, chosen)
    tuned, edges = study.spec.tune, []
    for each in study.arms:
        edges += space.edges(tuned, each.arm.label, chosen[each.arm.label].values, each.bounds)
    untuned = [label for label, choice in chosen.items() if not choice.values]
    for label in untuned:
        console.print(f"arm {label!r}: no trial finished, so it has no reported runs", style="red", markup=False, highlight=False)
    for line in [*edges, *study.choices]:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return study, trials, edges, untuned
