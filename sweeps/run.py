"""Run a planned study: tuning if the study asks for it, then every reported run that is missing, then the record."""

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from arch.words import listed, times, together
from sweeps import devices, looking, pool, space
from sweeps import study as studies
from sweeps.folders import safe_name
from sweeps.job import Outcome
from sweeps.metrics import times_claimed
from sweeps.pool import worker_count
from sweeps.queues import Runs
from sweeps.record import NAME, StudyRecord, TrialRecord
from sweeps.retraining import Retraining
from sweeps.scale import at_scale
from sweeps.worker import trainer
from sweeps.workers import Workers, do_jobs

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

    workers: the number of workers, or None for as many as the cores allow; for one, if the study claims times. storage: of
    `sweeps.storage.opened`, or a function that opens it; the runs are then shared with all other drivers that have it. again:
    what failed before is tried once more.
    Raises SpecError for too many workers or a storage of another study (before anything is written), OSError if the study's
    folder cannot be written, KeyboardInterrupt when interrupted: the same call then resumes the study.
    """
    sample, warn = study.jobs(), partial(_say, console, style="yellow")
    gpus = devices.of_study(study.arms, sample, warn)
    worker_count(sample, workers, devices=gpus)
    if timed := times_claimed(study.spec, [each.arm for each in study.arms]):
        if workers is not None and workers > 1:
            warn(f"warning: {listed(timed)}: {'times' if len(timed) > 1 else 'a time'}, and runs that go at once slow each other")
        workers = workers or 1
    if several := max((job.cores for job in sample if job.cores > max(job.threads, pool.cores())), default=0):
        here = f"{several} cores busy (train.threads x train.devices), and here are {pool.cores()}"
        warn(f"warning: a run keeps {here}: it is slow")
    logs, shared = study.folder / LOGS, None
    if storage is not None:
        from sweeps import open_queue

        shared = open_queue.opened(storage() if callable(storage) else storage, study, warn, again)
        logs /= safe_name(open_queue.HOST)
    if (study.spec.tune or study.spec.search) and not shared and (result := _without_database(study, console)):
        return result
    logs.mkdir(parents=True, exist_ok=True)
    for remark in study.remarks():
        warn(f"warning: {remark}")
    for arm in (each.arm for each in study.arms):
        for match in arm.matched:
            _say(console, f"matched: arm {arm.label!r}: {match.words}")
        if arm.budget:
            _say(console, f"budget: arm {arm.label!r}: {arm.budget.words}")
    counts = looking.first_counts(study.spec)
    # Before tuning, keep the record of an earlier start: it knows more than this start does so far.
    if (study.spec.tune or study.spec.search) and not (study.folder / NAME).exists():
        _write(study.record(dict.fromkeys(counts, 0)), study, shared)
    with Workers(sample, workers, prepare, logs, study.folder, shared, again, gpus) as pools:
        trials, edges, absent = [], [], []
        if study.spec.tune or study.spec.search:
            study, trials, edges, absent = (_tune if study.spec.tune else _search)(study, pools, console)
        counts = {arm: 0 if arm in absent else number for arm, number in counts.items()}
        outcomes = _look_by_look(study, counts, {"trials": trials, "edges": edges}, pools, console)
    return Result(study, outcomes, trials, edges, [arm for arm, number in counts.items() if not number])


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
    for sentence in dict.fromkeys(said for each in earlier for said in looking.exploratory(each)):
        _say(console, sentence, "yellow")
    ran, following = 0, counts
    while following is not None:
        counts = following
        kept = {**tuning, "looks": looks, "earlier": earlier}
        _write(study.record(counts, **kept), study, pools.shared)
        queue = Runs(f"{study.name}{at_scale(study.scale)}", study.jobs(counts), pools.failed)
        _do(queue, study, pools, console)
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


def _make(study, planned, seeds, pools, console):
    """Make the helper runs that trials with these seeds need, before the trials."""
    jobs = {job.folder: job for each in planned for job in study.needed(each, seeds)}
    _do(Runs(f"{study.name}{at_scale(study.scale)}, before its trials", list(jobs.values()), pools.failed), study, pools, console)


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


def _do(queue, study, pools, console):
    """Do the jobs of a queue, each after the runs whose weights it reads and that have none any more."""
    do_jobs(Retraining(queue, study, partial(_say, console, style="yellow")), pools, console)


def _until_over(queue, study, pools, console):
    """Do the trials of a search until there are no more. Another driver may be about to begin one: it is waited for."""
    _do(queue, study, pools, console)
    while pools.shared and not queue.is_over:
        time.sleep(pools.shared.terms.poll)
        _do(queue, study, pools, console)


def _search(study, pools, console):
    """Search. Returns (the study with its winners, trials, no edges, labels of the winners that there are not).

    That a winner lies at an end of a range is among the study's `choices`.
    """
    from sweeps.search import arms, queue, storage

    with _searching(study, pools, console):
        kept = pools.shared.storage if pools.shared else storage.of_folder(study.folder)
        _make(study, [queue.base_of(study)], study.spec.search.tuning_seeds, pools, console)
        keep = _keeper(study, pools, lambda: arms.facts(search, arms.found(search)))
        search = queue.Search(study, kept, keep, alone=not pools.shared)
        _until_over(search, study, pools, console)
        result = arms.found(search)
        study = arms.with_winners(study, search, result)
        for line in result.notes:
            _say(console, line, "yellow")
        return study, search.records(), [], [label for label in study.spec.search.winners if label not in result.winners]


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
        _until_over(tune.Tuning(study, list(tuners.values()), _keeper(study, pools)), study, pools, console)
        trials = [record for tuner in tuners.values() for record in tuner.records()]
        chosen = {label: tuner.chosen(label) for label, tuner in by_label.items()}
    study = studies.tuned(study, chosen)
    edges = []
    for each in study.arms:
        found = chosen[each.arm.label]
        edges += space.edges(found.searched or study.spec.tune, each.arm.label, found.values, each.bounds)
    untuned = [label for label, choice in chosen.items() if not choice.values]
    for label in untuned:
        _say(console, f"arm {label!r}: no trial finished, so it has no reported runs", "red")
    for line in together([*edges, *study.choices]):
        _say(console, line, "yellow")
    return study, trials, edges, untuned
