"""Run a planned study: tuning if the study asks for it, then every reported run that is missing, then the record."""

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from arch.words import listed, times
from experiments.orders import ABANDON, PRUNE
from sweeps import devices, looking, space
from sweeps import study as studies
from sweeps.folders import safe_name
from sweeps.job import Event, Outcome, record_failure
from sweeps.pool import Pool, worker_count
from sweeps.queues import Runs
from sweeps.record import NAME, StudyRecord, TrialRecord
from sweeps.scale import at_scale
from sweeps.table import display
from sweeps.worker import trainer

LOGS = "logs"
# Drivers write the study's record one after the other; one that stands still is waited for so many seconds.
RECORD_LOCK, LOCK_SECONDS = ".record.lock", 10


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


def run_study(study, workers, console, prepare=trainer, storage=None, again=False):
    """Run what is missing of a StudyPlan and keep its study.json up to date.

    workers: the number of workers, or None for as many as the cores allow. storage: of `sweeps.storage.opened`; the runs are
    then shared with all other drivers of this study that have it. again: what failed there before is tried once more.
    Raises SpecError for too many workers or a storage of another study (before anything is written), OSError if the study's
    folder cannot be written, KeyboardInterrupt when interrupted: the same call then resumes the study.
    """
    sample = study.jobs()
    gpus = devices.of_study(study.arms, sample, lambda text: _say(console, text, "yellow"))
    worker_count(sample, workers, devices=gpus)
    logs, shared = study.folder / LOGS, None
    if storage is not None:
        from sweeps import shared_queue

        shared = shared_queue.opened(storage, study, lambda text: _say(console, text, "yellow"), again)
        logs /= safe_name(shared_queue.HOST)
    if (study.spec.tune or study.spec.search) and not shared and (result := _without_database(study, console)):
        return result
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
    if (study.spec.tune or study.spec.search) and not (study.folder / NAME).exists():
        _write(study.record(dict.fromkeys(counts, 0)), study, shared)
    with _Workers(sample, workers, prepare, logs, study.folder, shared, again, gpus) as pools:
        tuning: dict[str, Any] = {"trials": [], "edges": []}
        if study.spec.tune:
            study, trials, edges, untuned = _tune(study, pools, console)
            tuning = {"trials": trials, "edges": edges}
            counts = {arm: 0 if arm in untuned else number for arm, number in counts.items()}
        elif study.spec.search:
            study, trials, absent = _search(study, pools, console)
            tuning = {"trials": trials, "edges": []}
            counts = {arm: 0 if arm in absent else number for arm, number in counts.items()}
        outcomes = _look_by_look(study, counts, tuning, pools, console)
    untuned = [arm for arm, number in counts.items() if not number]
    return Result(study, outcomes, tuning["trials"], tuning["edges"], untuned)


def _without_database(study, console):
    """The Result of a study whose database cannot be used, where nothing is left to do; None where it can be used."""
    from sweeps import recorded
    from sweeps.search import storage

    if not (study.folder / storage.DATABASE).exists():
        return None
    try:
        storage.of_folder(study.folder)
        return None
    except storage.Unusable as error:
        if not (known := recorded.outcomes(study)):
            raise
        record, outcomes = known
        _say(console, f"{error} (it is not needed: all {len(outcomes)} runs are finished)", "yellow")
        return Result(study, outcomes, record.trials, record.edges, [])


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
        _write(study.record(counts, **kept), study, pools.shared)
        queue = Runs(f"{study.name}{at_scale(study.scale)}", study.jobs(counts), pools.failed)
        _work(queue, pools, console)
        ran += queue.total
        outcomes |= {outcome.job.folder: outcome for outcome in queue.outcomes()}
        # Another study may have finished a run meanwhile: write the record again with the final folder of each run.
        record = study.record(counts, **kept)
        rulings, following = looking.look(record, study.folder, counts)
        looks = looking.taken(rulings, max(counts.values()), looks)
        _write(record.model_copy(update={"looks": looks}), study, pools.shared)
        if following:
            going = [arm for arm, number in following.items() if number > counts[arm]]
            _say(
                console,
                f"at {times(max(counts.values()), 'seed')}: not all is decided; {listed(going)} go on to {max(following.values())}",
            )
    if not ran:
        console.print(f"all {len(outcomes)} runs are finished already", highlight=False)
    return list(outcomes.values())


def _write(record, study, shared, waits=True):
    """Write the study's record. Of several drivers, one that has just begun does not replace a record of more seeds.

    waits: whether a driver with a storage waits while the record cannot be written, as on a full disk.
    """
    if not shared:
        record.write(study.folder)
        return
    said = False
    while True:
        try:
            _write_in_turn(record, study)
            return
        except OSError as error:
            if not waits:
                raise
            if not said:
                shared.say(f"cannot write in {study.folder} ({error.strerror or error}); trying again")
            said = True
            time.sleep(shared.terms.poll)


def _write_in_turn(record, study):
    lock = FileLock(study.folder / RECORD_LOCK, timeout=LOCK_SECONDS)
    with suppress(Timeout, NotImplementedError):  # a driver that stands still holds it; each write is whole anyway
        lock.acquire()
    try:
        old = StudyRecord.read_whole(study.folder)
        if old is None or old.spec != record.spec or len(old.seeds) <= len(record.seeds):
            record.write(study.folder)
    finally:
        lock.release()


def _say(console, text, style=None):
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Workers:
    """One pool for tuning and reported runs, created for the first job. With nothing to do, no pool is created."""

    def __init__(self, sample, asked, prepare, logs, folder, shared=None, again=False, gpus=None):
        """sample: jobs like those to come, which say how many cores a run takes. shared: the SharedQueue of several drivers."""
        self.sample, self.asked, self.prepare, self.logs, self.pool = sample, asked, prepare, logs, None
        self.folder, self.shared, self.again, self.gpus = folder, shared, again, gpus

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.pool:
            self.pool.close()

    @property
    def failed(self):
        """Records that a run cannot start. Where other drivers may do the same run, a record that is there stays."""
        return partial(record_failure, replaces=False) if self.shared else record_failure

    def sized(self, total):
        """The pool, sized for `total` jobs."""
        size = worker_count(self.sample, self.asked, total, devices=self.gpus)
        if self.pool is None:
            self.pool = Pool(size, self.prepare, self.logs, retries=self.shared is None, devices=self.gpus)
        self.pool.size = size
        return self.pool


def _work(queue, pools, console):
    """Do every job of a queue."""
    if pools.shared:
        _work_together(queue, pools, console)
        return
    first = queue.take()
    if first is None:
        return
    ahead, pool = [first], pools.sized(queue.total)
    with display(console, f"{queue.title}, {pool.size} worker(s)", queue.known or [first], queue.done, queue.total) as show:

        def report(event):
            show(event)
            if event.kind == "progress" and queue.progressed(event.job, event.progress):
                pool.tell(event.job, PRUNE)
            if event.outcome:
                for outcome in queue.told(event.outcome):
                    show(Event("ended", outcome.job, outcome=outcome))

        pool.run(lambda: ahead.pop() if ahead else queue.take(), report)


def _work_together(source, pools, console):
    """Do the jobs of a queue that other drivers do as well, until all of them have ended."""
    from sweeps import work

    if pools.again:
        work.forgive(source.known)
    shared = work.Shared(source, pools.shared, pools.folder)
    if not shared.tick():
        return
    pool = pools.sized(max(1, source.total))
    shared.abandon = lambda job: pool.tell(job, ABANDON)
    title = f"{source.title}, {pool.size} worker(s), storage shared with other drivers"
    with display(console, title, source.known, source.done, source.total) as show:

        def drain():
            while shared.events:
                show(shared.events.pop(0))

        def report(event):
            if event.outcome:
                shared.told(event.outcome)
                drain()
                return
            if event.kind == "progress" and shared.progress(event.job, event.progress):
                pool.tell(event.job, PRUNE)
            show(event)

        def tick():
            going = shared.tick()
            drain()
            return going

        drain()
        try:
            pool.run(shared.take, report, tick)
        finally:
            shared.leave()


def _make(study, planned, seeds, pools, console):
    """Make the helper runs that trials with these seeds need, before the trials."""
    jobs = {job.folder: job for each in planned for job in study.needed(each, seeds)}
    _work(Runs(f"{study.name}{at_scale(study.scale)}, before its trials", list(jobs.values()), pools.failed), pools, console)


def _searching(study, pools, console):
    """Context manager: search alone in the study's folder; with a storage, together with its other drivers."""
    from sweeps.search import storage

    return nullcontext() if pools.shared else storage.only_one(study.folder, lambda text: _say(console, text))


def _keeper(study, pools, search=lambda: None):
    """A function that keeps all trials in the study's record. search: what is known of the search so far, as in the record.

    An earlier record with looks stays until the runs start: what was looked at must not be forgotten.
    """
    old = StudyRecord.read_whole(study.folder)

    def keep(trials):
        if not (old and looking.begun(old)):
            _write(study.record(dict.fromkeys(study.spec.arms, 0), trials, search=search()), study, pools.shared, waits=False)

    return keep


def _until_over(queue, pools, console):
    """Do the trials of a search until there are no more. Another driver may be about to begin one: it is waited for."""
    _work(queue, pools, console)
    while pools.shared and not queue.is_over:
        time.sleep(pools.shared.terms.poll)
        _work(queue, pools, console)


def _search(study, pools, console):
    """Search. Returns (the study with its winners, trials, labels of the winners that there are not)."""
    from sweeps.search import arms, queue, storage

    with _searching(study, pools, console):
        kept = pools.shared.storage if pools.shared else storage.of_folder(study.folder)
        _make(study, [queue.base_of(study)], study.spec.search.tuning_seeds, pools, console)
        keep = _keeper(study, pools, lambda: arms.facts(search, arms.found(search)))
        search = queue.Search(study, kept, keep, alone=not pools.shared)
        _until_over(search, pools, console)
        result = arms.found(search)
        study = arms.with_winners(study, search, result)
        for line in result.notes:
            _say(console, line, "yellow")
        return study, search.records(), [label for label in study.spec.search.winners if label not in result.winners]


def _tune(study, pools, console):
    """Tune. Returns (the study with the best values, trials, sentences about edges, arms without a finished trial)."""
    from sweeps import tune

    with _searching(study, pools, console):
        _make(study, study.arms, study.spec.tune.tuning_seeds, pools, console)
        tuners, storage = {}, pools.shared.storage if pools.shared else None
        for each in study.arms:
            # Arms that resolve to the same experiment share one search.
            if each.identities[0] not in tuners:
                tuners[each.identities[0]] = tune.Tuner(study, each, storage)
        by_label = {each.arm.label: tuners[each.identities[0]] for each in study.arms}
        _until_over(tune.Search(study, list(tuners.values()), _keeper(study, pools)), pools, console)
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
