"""The queue of a search: it asks Optuna for trials, gives their runs to a pool, and tells Optuna what became of them.

Everything it knows is in Optuna's storage and in the records of the runs, so several processes can drive one search, and
a process that was killed loses nothing: trials that were running go on from the checkpoints of their runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from arch import document
from arch.errors import SpecError
from arch.spec import digest
from experiments import evaluations
from experiments import plan as experiment
from experiments.metrics import is_cost
from experiments.record import shown, with_performance
from sweeps import folders
from sweeps.costs import cost_metric
from sweeps.job import Job, Outcome
from sweeps.queues import is_done, run_record
from sweeps.record import TrialRecord
from sweeps.search import records, samplers, simplex, stored, widen
from sweeps.search import space as spaces
from sweeps.search.spec import Numbers
from sweeps.search.winners import Candidate, chosen

# What a search's jobs have in place of an arm.
ARM = "search"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def base_of(study: Any) -> Any:
    """The ArmPlan that a study's search overrides."""
    return next(each for each in study.arms if each.arm.label == (study.spec.search.base or study.arms[0].arm.label))


class Search:
    """The queue (`sweeps.queues`) of a study's search (`study.spec.search`). storage: Optuna's, from the caller.

    keep: called with the TrialRecords after every outcome. alone: whether no other process drives this search; what a
    killed process left half done is then taken up at once.
    """

    learns = True

    def __init__(self, study: Any, storage: Any, keep: Callable[[list[TrialRecord]], None] | None = None, alone: bool = True):
        self.study, self.storage, self.keep = study, storage, keep or (lambda records: None)
        self.spec = study.spec.search
        self.base = base_of(study)
        self.axes = spaces.axes(self.spec.space, self.base.arm.document, document.node({}))
        self.seeds = self.spec.tuning_seeds
        self.places = {(job.plan.identity, job.seed): job.folder for job in study.needed(self.base, self.seeds)}
        self.metrics = [name for name in self.spec.objectives if not is_cost(name)]
        self.alone = alone
        self.optuna = self._open()
        self.plans: dict[int, experiment.RunPlan] = {}
        self.given: set[Path] = set()
        self.half_asked: dict[int, float] = {}
        self.title = f"{study.name}: searching {', '.join(self.spec.space)}"
        self.known: list[Job] = []
        self.done: list[tuple[Job, Any]] = []
        self._take_up_again(alone)
        self._give_first()
        left = (self.limit or 0) - sum(trial.state.is_finished() for trial in self._counted(self._trials()))
        self.total = max(0, left) * len(self.seeds) if self.metrics else 0

    @property
    def name(self) -> str:
        """The name of the Optuna study: of the study's folder, with a digest of all that decides what a trial's values mean.

        How trials are chosen and how many (`sampler`, `pruner`, `trials`, `judge`, `widen`) is not part of it: to change it
        continues the same search.
        """
        chosen = ("sampler", "pruner", "trials", "judge", "widen")
        content = {key: value for key, value in self.spec.dump().items() if key not in chosen}
        content["base"] = self.base.plans[0].identity
        content |= {"mixture": simplex.RULE} if any(axis.mixture for axis, _ in spaces.every(self.axes)) else {}
        content["evaluations"] = [each.file for each in evaluations.planned(self.base.plans[0].spec) if each.split == "select"]
        place = self.study.folder
        return f"{place.parent.name}/{place.name}/search-{digest(content)[:12]}"

    @property
    def limit(self) -> int | None:
        """The number of trials."""
        return spaces.limit(self.spec, self.axes)

    def take(self) -> Job | None:
        """The next Job for the pool of this process, or None if there is none now."""
        while True:
            self.settle()
            for job in self.ready():
                if job.folder not in self.given:
                    self.given.add(job.folder)
                    return job
            if not self.ask():
                return None

    def told(self, outcome: Outcome) -> list[Outcome]:
        """Keep how a run of a trial ended. A trial whose run was interrupted stays running, for the next start."""
        if outcome.status in ("interrupted", "abandoned"):
            return []
        self.given.discard(outcome.job.folder)
        failure = outcome.record.failure if outcome.record else None
        if outcome.status in ("failed", "lost") and (failure is None or failure.by_machine):
            self._fail(outcome.job.trial, outcome.message or "its worker was lost", again=True)
        elif outcome.status == "finished" and self._ended(outcome.job) is None:
            self._fail(outcome.job.trial, "its evaluations are missing", again=True)
        self.settle()
        self.keep(self.records())
        return []

    def progressed(self, job: Job, state: dict[str, Any]) -> bool:
        """Report an evaluation of a running job to Optuna. Returns whether the run is to be pruned."""
        pruner, name = self.optuna.pruner, next(iter(self.spec.objectives))
        value, step = (state.get("selected") or {}).get(name), state.get("step", 0)
        late = step >= state.get("steps", 0)
        if not self._prunes or samplers.by_seed(self.spec) or job.seed != self.seeds[0] or value is None or late:
            return False
        trial = self._reported(job.trial, step, value)
        return trial is not None and pruner.prune(self.optuna, trial)

    def ready(self) -> Iterator[Job]:
        """Yields the jobs that could start now: runs of running trials that have not ended."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and stored.RUNS in trial.user_attrs:
                for job in self._jobs(trial):
                    if self._ended(job) is None:
                        yield job
                        if samplers.only_first_seed(self.spec) and (samplers.by_seed(self.spec) or job.seed == self.seeds[0]):
                            break

    def ask(self) -> bool:
        """Begin trials until one has something to run. Returns False if there is none to begin now."""
        while True:
            trials = self._trials()
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and self.limit is not None and len(self._counted(trials)) >= self.limit:
                return False
            self._widen(trials)
            self.optuna.sampler = samplers.sampler(self.spec, self.axes, len(trials))
            try:
                with samplers.quiet():
                    trial = self.optuna.ask()
                    # Whoever asks at the same moment has another number, and draws other values.
                    self.optuna.sampler = samplers.sampler(self.spec, self.axes, trial.number)
                    values = spaces.suggested(self.axes, trial, self.ranges)
            finally:
                self.optuna.sampler = _no_sampler()
            if self._begin(trial, values):
                return True

    @property
    def ranges(self) -> dict[str, Numbers]:
        """{dimension: its range} of those that grew (`sweeps.search.widen`)."""
        return widen.ranges(self.axes, self.optuna.user_attrs.get(widen.WIDENED, {})) if self.spec.widen else {}

    def _widen(self, trials):
        """After each quarter of the trials, let ranges grow whose best lies at an end."""
        if not self.spec.widen or self.limit is None:
            return
        kept = self.optuna.user_attrs.get(widen.WIDENED, {})
        at = widen.quarter(sum(trial.state.is_finished() for trial in self._counted(trials)), self.limit)
        candidates = self.candidates()
        if at == 0 or str(at) in kept or not candidates:
            return
        best = self.values(chosen(candidates, 1)[0].number)
        wider = widen.grown(self.base.arm.document, self.axes, best, self.spec.widen, self.ranges)
        self.optuna.set_user_attr(widen.WIDENED, {**kept, str(at): wider})

    @property
    def is_over(self) -> bool:
        """Whether every trial is told, and no more is to be begun: what other processes still ask for counts too."""
        trials = self._trials()
        return all(trial.state.is_finished() for trial in trials) and len(self._counted(trials)) >= (self.limit or 0)

    def settle(self) -> None:
        """Tell Optuna of every running trial whose runs have all ended, according to their records."""
        for trial in self._trials():
            if trial.state != TrialState.RUNNING:
                continue
            if stored.RUNS in trial.user_attrs:
                self._settle(trial)
            elif not stored.begun(trial) and stored.is_given_up(trial, self.half_asked):
                self._give_up(trial)

    def records(self) -> list[TrialRecord]:
        """One TrialRecord per run of every trial, and one for a trial that trained nothing."""
        begun = [trial for trial in self._trials() if stored.begun(trial)]
        return [record for trial in begun for record in records.of_trial(trial, self.axes, self.spec.objectives)]

    def candidates(self) -> list[Candidate]:
        """The trials that may become arms: feasible, and finished."""
        done = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE and stored.state_of(trial) == "finished"]
        signs = [1.0 if way == "minimise" else -1.0 for way in self.spec.objectives.values()]
        return [
            Candidate(
                trial.number,
                trial.user_attrs[stored.IDENTITY],
                tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)),
            )
            for trial in done
            if all(math.isfinite(value) for value in trial.values)
        ]

    def values(self, number: int) -> dict[str, spaces.Value]:
        """{dimension: value} of a trial."""
        return dict(stored.trial(self.storage, self.optuna, number).params)

    def _open(self):
        ways = {"minimise": StudyDirection.MINIMIZE, "maximise": StudyDirection.MAXIMIZE}
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            load_if_exists=True,
            directions=[ways[way] for way in self.spec.objectives.values()],
            sampler=_no_sampler(),
            pruner=samplers.pruner(self.spec, self.base.plans[0].spec) or optuna.pruners.NopPruner(),
        )
        # Words for those who look at it with Optuna's own tools.
        if study.metric_names != list(self.spec.objectives):
            with samplers.quiet():
                study.set_metric_names(list(self.spec.objectives))
        return study

    @property
    def _prunes(self):
        return not isinstance(self.optuna.pruner, optuna.pruners.NopPruner)

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _counted(self, trials):
        """The trials that count towards `trials`. One that was half asked for counts as long as it may still begin."""
        gone = stored.replaced(trials)
        open_states = (TrialState.RUNNING, TrialState.WAITING)
        return [
            trial
            for trial in trials
            if trial.number not in gone
            and not trial.user_attrs.get(stored.SURPLUS)
            and (stored.begun(trial) or trial.state in open_states)
        ]

    def _take_up_again(self, alone):
        """Enqueue again the trials that the machine made fail, and those that were killed before they had their values."""
        trials = self._trials()
        gone = stored.replaced(trials)
        for trial in trials:
            if trial.user_attrs.get(stored.AGAIN) and trial.number not in gone:
                self.optuna.enqueue_trial(dict(trial.params), user_attrs={stored.REPLACES: trial.number})
            elif alone and trial.state == TrialState.RUNNING and not stored.begun(trial):
                self._give_up(trial)

    def _give_first(self):
        """Before the first trial, enqueue the mixtures that the space names. Of two processes at once, both may."""
        if not self._trials():
            for values in spaces.given_first(self.spec.space, self.axes):
                self.optuna.enqueue_trial(values, skip_if_exists=True)

    def _give_up(self, trial):
        """Fail a trial that nobody goes on asking for. One that replaces another, or has all its values, is enqueued again."""
        if self._tell(trial.number, state=TrialState.FAIL):
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if spaces.complete(self.axes, values):
                marks = {key: trial.user_attrs[key] for key in (stored.REPLACES,) if key in trial.user_attrs}
                self.optuna.enqueue_trial(values, user_attrs=marks)

    def _begin(self, trial: Trial, values: dict[str, spaces.Value]) -> bool:
        """Give a trial its runs, or say why it has none. Returns whether it has runs."""
        if self._is_surplus(trial.number):
            trial.set_user_attr(stored.SURPLUS, True)
            return self._without_runs(trial, TrialState.FAIL)
        if weights := spaces.mixed(self.axes, values):
            trial.set_user_attr(stored.WEIGHTS, weights)
        try:
            plan = self._planned(values)
        except SpecError as error:
            # Each value fits alone, but these together do not. As a broken constraint, it teaches the sampler something.
            trial.set_user_attr(stored.WHY, str(error))
            trial.set_constraint(stored.BUILDS, 1.0)
            return self._without_runs(trial, TrialState.PRUNED)
        costs = self._costs(plan)
        absent = [name for name in (*self.spec.subject_to, *self.spec.objectives) if is_cost(name) and name not in costs]
        if absent:
            trial.set_user_attr(stored.WHY, f"it has no {absent[0]}")
            return self._without_runs(trial, TrialState.FAIL)
        trial.set_user_attr(stored.IDENTITY, plan.identity)
        why = []
        for name, limits in self.spec.subject_to.items():
            excess = limits.excess(costs[name])
            trial.set_constraint(name, excess)
            why += [_beyond(name, costs[name], limits)] if excess > 0 else []
        if why:
            trial.set_user_attr(stored.WHY, "; ".join(why))
            trial.set_user_attr(stored.COSTS, costs)
            return self._without_runs(trial, TrialState.PRUNED)
        trial.set_user_attr(stored.COSTS, costs)
        if not self.metrics:
            return self._without_runs(trial, TrialState.COMPLETE, [costs[name] for name in self.spec.objectives])
        self.plans[trial.number] = plan
        places = self.study.trial_folders(self.base, plan.identity, self.seeds)
        runs = {str(seed): folders.relative(folder, self.study.folder) for seed, folder in places.items()}
        trial.set_user_attr(stored.RUNS, runs)
        return True

    def _without_runs(self, trial, state, values=None):
        self._tell(trial.number, values, state)
        return False

    def _is_surplus(self, number):
        """Whether enough trials were begun before this one: two processes may have asked at once where one was left."""
        earlier = [trial for trial in self._counted(self._trials()) if trial.number < number]
        return self.limit is not None and len(earlier) >= self.limit

    def _planned(self, values):
        root = spaces.overridden(self.base.arm.document, self.axes, values)
        plan = experiment.plan(root, self.base.made)
        # A trial reads nothing of the report split.
        return plan.model_copy(update={"evaluations": tuple(each for each in plan.evaluations if each.split == "select")})

    def _costs(self, plan):
        """{cost: value} of the costs that are objectives or limited."""
        from sweeps.study import arm_cost

        cost = arm_cost(plan.spec, self.study.spec.long_context, plan.cost)
        names = [name for name in (*self.spec.subject_to, *self.spec.objectives) if is_cost(name)]
        known = {name: cost_metric(name, plan.spec, cost) for name in names}
        return {name: value for name, value in known.items() if value is not None}

    def _jobs(self, trial):
        """The Jobs of a trial, in the order of their seeds."""
        if trial.number not in self.plans:
            self.plans[trial.number] = self._planned(trial.params)
        plan = self.plans[trial.number]
        return [
            Job(ARM, int(seed), plan.located(int(seed), self.places), (self.study.folder / run), trial.number)
            for seed, run in trial.user_attrs[stored.RUNS].items()
        ]

    def _ended(self, job):
        """The record of a job's run, with what is measured of it, if the run has ended for good; else None."""
        record = run_record(job)
        if record is None:
            return None
        if record.status == "finished":
            files = {each.key: each.file for each in job.plan.evaluations}
            return with_performance(shown(record, job.folder, files, [])) if is_done(job) else None
        if record.status == "failed":
            return None if record.failure and record.failure.by_machine else record
        return record if record.status == "pruned" else None

    def _settle(self, trial):
        values: dict[int, dict[str, float]] = {}
        for job in self._jobs(trial):
            record = self._ended(job)
            if record is None:
                continue
            if record.status == "failed":
                self._fail(trial.number, f"seed {job.seed}: {record.failure.reason if record.failure else 'failed'}")
                return
            if record.status == "pruned":
                self._prune(trial.number, f"pruned at step {record.steps:,} of {job.plan.spec.train.steps:,}")
                return
            absent = [name for name in self.metrics if not math.isfinite(record.metrics.get(name, math.nan))]
            if absent:
                self._fail(trial.number, f"seed {job.seed}: its record has no {absent[0]}")
                return
            values[job.seed] = {name: record.metrics[name] for name in self.metrics}
            if samplers.by_seed(self.spec) and self._pruned_by_seed(trial.number, job.seed, values):
                return
        if len(values) < len(self.seeds):
            return
        self._set(trial.number, stored.MEASURED, {str(seed): each for seed, each in values.items()})
        costs = trial.user_attrs[stored.COSTS]
        means = [
            costs[name] if is_cost(name) else statistics.fmean(each[name] for each in values.values())
            for name in self.spec.objectives
        ]
        self._tell(trial.number, means)

    def _pruned_by_seed(self, number, seed, values):
        """Report a seed's final value. Returns whether the trial was pruned on it."""
        step, (name,) = self.seeds.index(seed), self.spec.objectives
        trial = self._reported(number, step, values[seed][name])
        if trial is None or len(values) == len(self.seeds) or not self.optuna.pruner.prune(self.optuna, trial):
            return trial is None
        self._set(number, stored.MEASURED, {str(each): those for each, those in values.items()})
        self._prune(number, f"worse than the best trial on its first {len(values)} seeds")
        return True

    def _reported(self, number, step, value):
        """The trial with a value reported at a step; None if the trial has ended. A step counts once, also after a resume."""
        which = stored.trial_id(self.storage, self.optuna, number)
        try:
            if step not in self.storage.get_trial(which).intermediate_values:
                self.storage.set_trial_intermediate_value(which, step, value)
        except UpdateFinishedTrialError:
            return None
        return self.storage.get_trial(which)

    def _fail(self, number, why, again=False):
        self._set(number, stored.WHY, why)
        if again:
            self._set(number, stored.AGAIN, True)
        self._tell(number, state=TrialState.FAIL)

    def _prune(self, number, why):
        self._set(number, stored.WHY, why)
        self._tell(number, state=TrialState.PRUNED)

    def _set(self, number, key, value):
        stored.set_attribute(self.storage, self.optuna, number, key, value)

    def _tell(self, number, values=None, state=None):
        return stored.tell(self.storage, self.optuna, number, values, state)


def _no_sampler():
    """What a study has while it tells: samplers that end a search by themselves may only do so within `optimize`."""
    return optuna.samplers.RandomSampler(seed=0)


def _beyond(name, value, limits):
    over = limits.most is not None and value > limits.most
    limit, word = (limits.most, "above") if over else (limits.least, "below")
    return f"{name} = {value:,.6g} is {word} {limit:,.6g}"
