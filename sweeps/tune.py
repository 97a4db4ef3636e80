"""One search per arm before its reported runs, on the select split and with separate seeds. Optuna stores it in SQLite.

On a grid, every tuning seed chooses by its own runs (`sweeps.vertex`); of TPE's trials, the best mean over seeds is chosen.

Trials go through Optuna's ask-and-tell interface one by one, so that the trials of all arms share the pool. A trial
that a killed process left running is resumed: its values are stored, and its runs continue from their checkpoints.
"""

import contextlib
import statistics
from collections import deque
from dataclasses import dataclass, field

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from arch.errors import SpecError
from arch.spec import digest
from experiments import evaluations
from experiments import plan as experiment
from sweeps import folders, space, vertex
from sweeps.compare import harm
from sweeps.job import Job, Outcome
from sweeps.metrics import metric_of
from sweeps.queues import measured
from sweeps.record import TrialRecord
from sweeps.study import overridden

DATABASE = "study.db"
LOCK = ".tune.lock"
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}
# AGAIN: the machine made the trial fail, not the values tried. It is tried again when the study is started again.
AGAIN, REPLACES = "again", "replaces"

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextlib.contextmanager
def only_one(folder, say):
    """Hold the lock of the search in a study's folder. Another process waits for it and then finds the trials done."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is tuning in {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Choice:
    """What a search chose for an arm. values: {dotted key: value} of each tuning seed; empty if nothing can be chosen.

    notes: sentences on values that were not chosen in the usual way.
    """

    values: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Search:
    """The queue of all arms' trials (see `sweeps.queues`). keep: called with all TrialRecords after every outcome."""

    def __init__(self, study, tuners, keep):
        self.title = f"{study.name}: tuning {', '.join(study.spec.tune.space)}"
        self.tuners, self.keep, self.turns = tuners, keep, deque(tuners)
        self.total, self.known, self.done = sum(tuner.runs_left() for tuner in tuners), [], []

    def take(self):
        """The next job, from each arm in turn, so that an interrupted search has treated all arms alike."""
        for _ in range(len(self.turns)):
            tuner = self.turns[0]
            self.turns.rotate(-1)
            job = tuner.take()
            if job:
                return job
        return None

    def told(self, outcome):
        """Tell the arm's tuner how a run of one of its trials ended."""
        next(tuner for tuner in self.tuners if tuner.label == outcome.job.arm).told(outcome)
        self.keep([record for tuner in self.tuners for record in tuner.records()])
        return []


class Tuner:
    """The search of one arm. `take` gives its jobs, to be run by a pool; `told` takes their outcomes."""

    def __init__(self, study, arm_plan):
        self.study, self.arm_plan, self.tune = study, arm_plan, study.spec.tune
        self.seeds = [self.tune.first_seed + i for i in range(self.tune.seeds)]
        self.metric = metric_of(arm_plan.arm.spec, self.tune.metric)
        self.distributions = {key: self._distribution(key) for key in self.tune.space}
        self.search = self._open()
        self.jobs, self.values = deque(), {}
        self.left = deque(self._taken_up_again())
        if self.tune.sampler == "grid":
            for values in space.points(self.tune, arm_plan.plans[0].spec):
                self.search.enqueue_trial(values, skip_if_exists=True)

    @property
    def label(self):
        """The arm's label."""
        return self.arm_plan.arm.label

    def take(self):
        """The next Job, or None if no more are needed."""
        while not self.jobs:
            trial = self.left.popleft() if self.left else self._ask()
            if trial is None:
                return None
            self._begin(trial)
        return self.jobs.popleft()

    def told(self, outcome):
        """Record how a trial's run ended. A trial whose run was interrupted stays running, for the next start."""
        number, seed = outcome.job.trial, outcome.job.seed
        if outcome.status == "interrupted":
            return
        value = outcome.record.metrics.get(self.tune.metric) if outcome.status == "finished" else None
        self._note(number, seed, outcome, value)
        if len(self.values[number]) < len(self.seeds):
            return
        if None in self.values[number].values():
            self.search.tell(number, state=TrialState.FAIL)
        else:
            self.search.tell(number, statistics.fmean(self.values[number].values()))

    def runs_left(self):
        """Roughly how many trial runs are left: an interrupted trial counts in full."""
        grid = self.tune.sampler == "grid"
        trials = len(space.points(self.tune, self.arm_plan.plans[0].spec)) if grid else self.tune.trials
        done = [trial for trial in self.search.get_trials(deepcopy=False) if trial.state.is_finished()]
        done = [trial for trial in done if {"runs", "error"} & trial.user_attrs.keys() and not trial.user_attrs.get(AGAIN)]
        return max(0, trials - len(done)) * len(self.seeds)

    def chosen(self, label=None):
        """The Choice. label: of the arm in its notes; by default the tuner's, whose search other arms may share."""
        if self.tune.sampler == "grid":
            return self._from_grid(label or self.label)
        done = self.search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return Choice([dict(min(done, key=lambda trial: harm(trial.value, self.metric)).params)] if done else [])

    def _from_grid(self, label):
        keys, axes = list(self.tune.space), [self._axis(key) for key in self.tune.space]
        values, notes = [], []
        for seed, chosen in vertex.by_seed(axes, self._curves(axes)).items():
            optimum = chosen.optimum
            at = {key: axis.values[i] for key, axis, i in zip(keys, axes, optimum.point, strict=True)}
            best = dict(zip(keys, optimum.values, strict=True))
            if chosen.others:
                why = f"runs of tuning seed {seed} failed, so the mean of the other tuning seeds chose for it"
                notes.append(f"arm {label!r}: {why}")
            for key in [keys[k] for k in optimum.missing]:
                near = f"next to the best {key} = {at[key]:g}, a run of tuning seed {seed} failed"
                notes.append(f"arm {label!r}: {near}, so this grid point is used as it is")
            if best != at and not self._resolves(best):
                notes.append(f"arm {label!r}: {_spelt(best)} cannot be built, so the best grid point {_spelt(at)} is used")
                best = at
            values.append(best)
        return Choice(values, list(dict.fromkeys(notes)))

    def _axis(self, key):
        span, is_whole = self.tune.space[key], space.whole(self.arm_plan.plans[0].spec, key)
        return vertex.Axis(space.grid(span, is_whole), span.log, is_whole)

    def _curves(self, axes):
        """{tuning seed: {index on each axis: harm}} of all runs that finished, also those of trials with a failed one."""
        curves: dict[int, dict[tuple[int, ...], float]] = {seed: {} for seed in self.seeds}
        for trial in self.search.get_trials(deepcopy=False):
            if set(trial.params) != set(self.tune.space):
                continue
            point = tuple(_nearest(axis.values, trial.params[key]) for key, axis in zip(self.tune.space, axes, strict=True))
            for seed in self.seeds:
                value = trial.user_attrs.get(f"value {seed}")
                if value is not None:
                    curves[seed][point] = harm(value, self.metric)
        return curves

    def _resolves(self, values):
        try:
            experiment.resolve(overridden(self.arm_plan.arm.document, values))
        except SpecError:
            return False
        return True

    def records(self):
        """One TrialRecord per trial and seed that was started."""
        found = []
        for trial in self.search.get_trials(deepcopy=False):
            unbuilt = dict.fromkeys(map(str, self.seeds), "") if "error" in trial.user_attrs else {}
            for seed, run in trial.user_attrs.get("runs", unbuilt).items():
                value = trial.user_attrs.get(f"value {seed}")
                state = STATES[trial.state]
                if value is not None and state == "failed":
                    state = "finished"  # This seed finished; another seed of the same trial failed.
                values = {key: float(each) for key, each in trial.params.items()}
                found.append(TrialRecord(arm=self.label, values=values, seed=int(seed), value=value, state=state, run=run))
        return found

    def _open(self):
        """The Optuna study. Its name has digests of the arm, the search and what it measures: a change of any starts anew.

        `trials` is not part of the name: raising it continues the same search.
        """
        content = {key: value for key, value in self.tune.dump().items() if key != "trials"}
        content["evaluations"] = [each.file for each in evaluations.planned(self.arm_plan.plans[0].spec) if each.split == "select"]
        name = f"{self.arm_plan.plans[0].identity[:12]}-{digest(content)[:12]}"
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{self.study.folder.resolve() / DATABASE}")
        direction = "maximize" if self.metric.better == "higher" else "minimize"
        search = optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True, direction=direction)
        # With a fixed seed, every start would propose the first random trials again.
        search.sampler = optuna.samplers.TPESampler(seed=len(search.trials))
        return search

    def _distribution(self, key):
        span = self.tune.space[key]
        if space.whole(self.arm_plan.plans[0].spec, key):
            return optuna.distributions.IntDistribution(round(span.low), round(span.high), log=span.log)
        return optuna.distributions.FloatDistribution(span.low, span.high, log=span.log)

    def _taken_up_again(self):
        """Yield the trials that a killed process left running; enqueue again those that the machine made fail."""
        trials = self.search.get_trials(deepcopy=False)
        replaced = _replaced(trials)
        for trial in trials:
            if trial.state == TrialState.RUNNING and set(trial.params) == set(self.tune.space):
                yield trial.number, dict(trial.params)
            elif trial.state == TrialState.RUNNING:
                # The process was killed before the trial had its values: nothing was run.
                self.search.tell(trial.number, state=TrialState.FAIL)
                if "fixed_params" in trial.system_attrs:
                    self.search.enqueue_trial(trial.system_attrs["fixed_params"])
            elif trial.user_attrs.get(AGAIN) and trial.number not in replaced:
                self.search.enqueue_trial(dict(trial.params), user_attrs={REPLACES: trial.number})

    def _ask(self):
        trials = self.search.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        replaced = _replaced(trials)
        begun = [trial for trial in trials if trial.number not in replaced and {"runs", "error"} & trial.user_attrs.keys()]
        if not waiting and (self.tune.sampler == "grid" or len(begun) >= self.tune.trials):
            return None
        trial = self.search.ask(fixed_distributions=self.distributions)
        return trial.number, dict(trial.params)

    def _begin(self, trial):
        number, values = trial
        self.values[number] = {}
        try:
            plan = experiment.plan(overridden(self.arm_plan.arm.document, values))
        except SpecError as error:
            # The ends of every range were checked, so a point between them cannot be built.
            self._set(number, "error", str(error))
            self.search.tell(number, state=TrialState.FAIL)
            return
        parent = self.study.folder / folders.TUNE
        runs, finished = {}, folders.Finished(self.study.runs, trials=True)
        for seed in self.seeds:
            folder = folders.run_folder(parent, self.arm_plan.arm.name, plan.identity, seed)
            folder = finished.folder(plan.identity, seed, folder) or folder
            runs[str(seed)] = folders.relative(folder, self.study.folder)
            self.jobs.append(Job(self.label, seed, plan, folder, number))
        self._set(number, "runs", runs)
        for job in [job for job in self.jobs if folders.is_finished(job.folder, plan.identity, job.seed)]:
            if not evaluations.missing(plan.evaluations, job.folder):
                self.jobs.remove(job)
                self.told(Outcome(job, "finished", measured(job), reused=True))

    def _note(self, number, seed, outcome, value):
        self.values[number][seed] = value
        if value is not None:
            self._set(number, f"value {seed}", value)
            return
        self._set(number, "error", outcome.message or f"its record has no {self.tune.metric}")
        failure = outcome.record.failure if outcome.record else None
        if outcome.record is None or (failure and failure.by_machine):
            self._set(number, AGAIN, True)

    def _set(self, number, key, value):
        trial = self.storage.get_trial_id_from_study_id_trial_number(
            self.storage.get_study_id_from_name(self.search.study_name), number
        )
        self.storage.set_trial_user_attr(trial, key, value)


def _nearest(values, value):
    """The index of the value on a grid, which storage may have rounded."""
    return min(range(len(values)), key=lambda i: abs(values[i] - value))


def _spelt(values):
    return ", ".join(f"{key} = {value:g}" for key, value in values.items())


def _replaced(trials):
    """The numbers of the trials that later trials replace."""
    return {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs}
