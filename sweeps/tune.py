"""One search per arm before its reported runs, on the select split and with separate seeds. Optuna stores it in SQLite.

On a grid, every tuning seed chooses by its own runs (`sweeps.vertex`); of TPE's trials, the best mean over seeds is chosen. A
grid may grow beyond its ends (`sweeps.beyond`).

Trials go through Optuna's ask-and-tell interface one by one, so that the trials of all arms share the pool. A trial
that a killed process left running is resumed: its values are stored, and its runs continue from their checkpoints.
What a search of the whole study keeps in storage (`sweeps.search.stored`) an arm's search keeps too, and several processes
drive it in the same way.
"""

import statistics
from collections import deque

import optuna
from optuna.trial import TrialState

from arch.errors import SpecError
from arch.spec import digest
from experiments import evaluations
from experiments import plan as experiment
from sweeps import beyond, choice, folders, space
from sweeps.compare import harm
from sweeps.job import Job, Outcome
from sweeps.metrics import metric_of
from sweeps.queues import is_done, measured, run_record
from sweeps.record import TrialRecord
from sweeps.search import storage as storages
from sweeps.search import stored
from sweeps.search.stored import AGAIN, REPLACES, RUNS, STATES, SURPLUS, WHY, begun, replaced
from sweeps.study import overridden

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Tuning:
    """The queue of all arms' trials (see `sweeps.queues`). keep: called with all TrialRecords after every outcome."""

    learns = True

    def __init__(self, study, tuners, keep):
        self.title = f"{study.name}: tuning {', '.join(study.spec.tune.space)}"
        self.tuners, self.keep, self.turns = tuners, keep, deque(tuners)
        self.total, self.known, self.done = sum(tuner.runs_left() for tuner in tuners), [], []

    def progressed(self, job, state):
        """No trial is pruned."""
        return False

    def take(self):
        """The next job, from each arm in turn, so that an interrupted search has treated all arms alike."""
        for _ in range(len(self.turns)):
            tuner = self.turns[0]
            self.turns.rotate(-1)
            job = tuner.take()
            if job:
                return job
        return None

    def ready(self):
        """Yields the jobs that could start now, of all arms."""
        for tuner in self.tuners:
            yield from tuner.ready()

    def ask(self):
        """Begin one more trial, of each arm in turn. Returns False if there is none to begin."""
        for _ in range(len(self.turns)):
            self.turns.rotate(-1)
            if self.turns[-1].ask():
                return True
        return False

    def settle(self):
        """Tell Optuna of every trial whose runs have all ended, according to their records."""
        for tuner in self.tuners:
            tuner.settle()

    @property
    def is_over(self):
        """Whether every trial of every arm is told."""
        return all(tuner.is_over for tuner in self.tuners)

    def told(self, outcome):
        """Tell the arm's tuner how a run of one of its trials ended."""
        next(tuner for tuner in self.tuners if tuner.label == outcome.job.arm).told(outcome)
        self.keep([record for tuner in self.tuners for record in tuner.records()])
        return []


class Tuner:
    """The search of one arm. `take` gives its jobs, to be run by a pool; `told` takes their outcomes.

    storage: Optuna's, if other processes drive the same search; by default a file in the study's folder.
    """

    def __init__(self, study, arm_plan, storage=None):
        self.alone = storage is None
        self.storage = storages.of_folder(study.folder) if storage is None else storage
        self.places = {(job.plan.identity, job.seed): job.folder for job in study.needed(arm_plan, study.spec.tune.tuning_seeds)}
        self.plans, self.half_asked = {}, {}
        self.known = None, None  # which trials are over, and how far the search goes then
        self.study, self.arm_plan, self.tune = study, arm_plan, study.spec.tune
        self.seeds = self.tune.tuning_seeds
        self.metric = metric_of(arm_plan.arm.spec, self.tune.metric)
        self.distributions = {
            key: self._distribution(key, span) for key, span in space.widest(self.tune, arm_plan.plans[0].spec).space.items()
        }
        self.optuna = self._open()
        self.jobs = deque()
        self.left = deque(self._taken_up_again())
        if self.tune.sampler == "grid":
            for values in space.points(self.searched(), arm_plan.plans[0].spec):
                self.optuna.enqueue_trial(values, skip_if_exists=True)

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
        self._tell_if_ended(number)

    def ready(self):
        """Yields the jobs that could start now: runs of running trials that have not ended."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            yield from (job for job in self._jobs(trial) if job.seed not in self._ended(trial))

    def ask(self):
        """Begin one more trial. Returns False if there is none to begin."""
        trial = self._ask()
        if trial is not None:
            self._begin(trial)
        return trial is not None

    def settle(self):
        """Tell Optuna of every running trial whose runs have all ended, according to their records."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not begun(trial):
                if stored.is_given_up(trial, self.half_asked):
                    self._give_up(trial)
                continue
            for job in self._jobs(trial):
                record = run_record(job)
                if job.seed in self._ended(trial) or record is None:
                    continue
                if record.status == "failed" and not (record.failure and record.failure.by_machine):
                    self._note(trial.number, job.seed, Outcome(job, "failed", record, _reason(record)), None)
                elif is_done(job):
                    self._note(trial.number, job.seed, Outcome(job, "finished", measured(job)), self._value(job))
            self._tell_if_ended(trial.number)

    @property
    def is_over(self):
        """Whether every trial is told, and no more is to be begun."""
        trials = self.optuna.get_trials(deepcopy=False)
        return all(trial.state.is_finished() for trial in trials) and not self._may_ask(trials)

    def searched(self, trials=None):
        """The TuneSpec of the search as far as it goes by now: where ranges may grow, what has ended decides how far."""
        if not any(span.beyond for span in self.tune.space.values()):
            return self.tune
        trials = self.optuna.get_trials(deepcopy=False) if trials is None else trials
        over = {trial.number for trial in trials if _is_over(trial)}
        if over != self.known[0]:
            told = [(trial.params, self._ended(trial), trial.number in over) for trial in trials]
            self.known = over, beyond.searched(self.arm_plan, self.tune, self.metric, told)
        return self.known[1]

    def _further(self, trials):
        """Points beyond the grid so far that are to be tried now."""
        if (now := self.searched(trials)) is self.tune:
            return []
        told = [(trial.params or trial.system_attrs.get("fixed_params", {}), {}, True) for trial in trials]
        return beyond.left(self.arm_plan, now, told)

    def _value(self, job):
        return measured(job).metrics.get(self.tune.metric)

    def _ended(self, trial):
        """{tuning seed: value, or None of a run that failed} of the runs of a trial that have ended."""
        attrs = trial.user_attrs
        return {seed: attrs.get(f"value {seed}") for seed in self.seeds if {f"value {seed}", f"failed {seed}"} & attrs.keys()}

    def _tell_if_ended(self, number):
        trial = self._trial(number)
        ended = self._ended(trial)
        if trial.state.is_finished() or len(ended) < len(self.seeds):
            return
        if None in ended.values():
            self._tell(number, state=TrialState.FAIL)
        else:
            self._tell(number, statistics.fmean(ended.values()))

    def _trial(self, number):
        return stored.trial(self.storage, self.optuna, number)

    def _tell(self, number, value=None, state=None):
        stored.tell(self.storage, self.optuna, number, value, state)

    def runs_left(self):
        """Roughly how many trial runs are left: an interrupted trial counts in full."""
        grid = self.tune.sampler == "grid"
        trials = len(space.points(self.searched(), self.arm_plan.plans[0].spec)) if grid else self.tune.trials
        done = [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state.is_finished()]
        done = [trial for trial in done if begun(trial) and not trial.user_attrs.get(AGAIN)]
        return max(0, trials - len(done)) * len(self.seeds)

    def chosen(self, label=None):
        """The Choice. label: of the arm in its notes; by default the tuner's, whose search other arms may share."""
        if self.tune.sampler == "grid":
            points = [(trial.params, self._ended(trial)) for trial in self.optuna.get_trials(deepcopy=False)]
            return choice.of_grid(self.arm_plan, self.searched(), self.metric, points, label or self.label)
        done = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return choice.Choice([dict(min(done, key=lambda trial: harm(trial.value, self.metric)).params)] if done else [])

    def records(self):
        """One TrialRecord per trial and seed that was started."""
        found = []
        for trial in self.optuna.get_trials(deepcopy=False):
            unbuilt = dict.fromkeys(map(str, self.seeds), "") if WHY in trial.user_attrs else {}
            for seed, run in trial.user_attrs.get(RUNS, unbuilt).items():
                value = trial.user_attrs.get(f"value {seed}")
                state = STATES[trial.state]
                if value is not None and state == "failed":
                    state = "finished"  # This seed finished; another seed of the same trial failed.
                values = {key: float(each) for key, each in trial.params.items()}
                found.append(TrialRecord(arm=self.label, values=values, seed=int(seed), value=value, state=state, run=run))
        return found

    def _open(self):
        """The Optuna study. Its name has digests of the arm, the search and what it measures: a change of any starts anew.

        `trials` and how far a grid may grow are not part of the name: raising them continues the same search.
        """
        content = {key: value for key, value in self.tune.dump().items() if key != "trials"}
        spans = content["space"].items()
        content["space"] = {key: {name: each for name, each in span.items() if name != "beyond"} for key, span in spans}
        content["evaluations"] = [each.file for each in evaluations.planned(self.arm_plan.plans[0].spec) if each.split == "select"]
        name = f"{self.arm_plan.plans[0].identity[:12]}-{digest(content)[:12]}"
        if not self.alone:  # other studies may be in the same storage
            name = f"{self.study.folder.parent.name}/{self.study.folder.name}/tune-{name}"
        direction = "maximize" if self.metric.better == "higher" else "minimize"
        search = optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True, direction=direction)
        # With a fixed seed, every start would propose the first random trials again.
        search.sampler = optuna.samplers.TPESampler(seed=len(search.trials))
        return search

    def _distribution(self, key, span):
        if space.whole(self.arm_plan.plans[0].spec, key):
            return optuna.distributions.IntDistribution(round(span.low), round(span.high), log=span.log)
        return optuna.distributions.FloatDistribution(span.low, span.high, log=span.log)

    def _taken_up_again(self):
        """Yield the trials that a killed process left running; enqueue again those that the machine made fail."""
        trials = self.optuna.get_trials(deepcopy=False)
        gone = replaced(trials)
        for trial in trials:
            if trial.state == TrialState.RUNNING and self.alone and set(trial.params) == set(self.tune.space):
                yield trial.number, dict(trial.params)
            elif trial.state == TrialState.RUNNING and self.alone:
                self._give_up(trial)
            elif trial.user_attrs.get(AGAIN) and trial.number not in gone:
                self.optuna.enqueue_trial(dict(trial.params), user_attrs={REPLACES: trial.number})

    def _give_up(self, trial):
        """Fail a trial whose process was killed before the trial had its values: nothing was run."""
        self._tell(trial.number, state=TrialState.FAIL)
        if "fixed_params" in trial.system_attrs:
            self.optuna.enqueue_trial(trial.system_attrs["fixed_params"])

    def _may_ask(self, trials):
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        gone = replaced(trials)
        counted = [trial for trial in trials if trial.number not in gone and begun(trial)]
        return bool(self._further(trials)) if self.tune.sampler == "grid" else len(counted) < self.tune.trials

    def _ask(self):
        trials = self.optuna.get_trials(deepcopy=False)
        if not self._may_ask(trials):
            return None
        for values in self._further(trials):
            self.optuna.enqueue_trial(values, skip_if_exists=True)
        trial = self.optuna.ask(fixed_distributions=self.distributions)
        return trial.number, dict(trial.params)

    def _is_surplus(self, number, values):
        """Whether another process began the same point of the grid before, or the last trial that was left."""
        trials = self.optuna.get_trials(deepcopy=False)
        gone = replaced(trials)
        open_states = (TrialState.RUNNING, TrialState.COMPLETE)
        others = [each for each in trials if each.number < number and each.number not in gone and not each.user_attrs.get(SURPLUS)]
        if self.tune.sampler == "grid":
            return any(each.params == values and (each.state in open_states or _is_over(each)) for each in others)
        return sum(begun(each) or each.state == TrialState.RUNNING for each in others) >= self.tune.trials

    def _planned(self, values):
        return experiment.plan(overridden(self.arm_plan.arm.document, values), self.arm_plan.made)

    def _jobs(self, trial):
        """The Jobs of a trial that was begun."""
        if RUNS not in trial.user_attrs:
            return []
        if trial.number not in self.plans:
            self.plans[trial.number] = self._planned(trial.params)
        plan, runs = self.plans[trial.number], trial.user_attrs[RUNS].items()
        return [self._job(trial.number, int(seed), plan, self.study.folder / run) for seed, run in runs]

    def _job(self, number, seed, plan, folder):
        return Job(self.label, seed, plan.located(seed, self.places), folder, number)

    def _begin(self, trial):
        number, values = trial
        if not self.alone and self._is_surplus(number, values):
            self._set(number, SURPLUS, True)
            self._tell(number, state=TrialState.FAIL)
            return
        try:
            plan = self.plans[number] = self._planned(values)
        except SpecError as error:
            # The ends of every range were checked, so a point between them cannot be built.
            self._set(number, WHY, str(error))
            self._tell(number, state=TrialState.FAIL)
            return
        places = self.study.trial_folders(self.arm_plan, plan.identity, self.seeds)
        ended = self._ended(self._trial(number))
        self.jobs += [self._job(number, seed, plan, folder) for seed, folder in places.items() if seed not in ended]
        self._set(number, RUNS, {str(seed): folders.relative(folder, self.study.folder) for seed, folder in places.items()})
        for job in [job for job in self.jobs if is_done(job)]:
            self.jobs.remove(job)
            self.told(Outcome(job, "finished", measured(job), reused=True))

    def _note(self, number, seed, outcome, value):
        if value is not None:
            self._set(number, f"value {seed}", value)
            return
        self._set(number, f"failed {seed}", True)
        self._set(number, WHY, outcome.message or f"its record has no {self.tune.metric}")
        failure = outcome.record.failure if outcome.record else None
        if outcome.record is None or (failure and failure.by_machine):
            self._set(number, AGAIN, True)

    def _set(self, number, key, value):
        stored.set_attribute(self.storage, self.optuna, number, key, value)


def _is_over(trial):
    """Whether a trial was tried and will not be again."""
    return trial.state.is_finished() and begun(trial) and not trial.user_attrs.get(AGAIN)


def _reason(record):
    return record.failure.reason if record.failure else "failed"
