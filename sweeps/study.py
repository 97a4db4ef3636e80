"""Plan a study: every arm at the chosen scale is checked and resolved before anything is written."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arch import cost, document
from arch.errors import SpecError
from arch.plugins import plugin_sources
from arch.words import listed
from experiments import costs, evaluations, precision, references, remarks
from experiments import plan as experiment
from experiments.spec import ExperimentSpec
from sweeps import budget, folders, ladder, looking, matching, origin
from sweeps.arms import Arm, Family, unused_runs
from sweeps.costs import costs_of
from sweeps.job import Job
from sweeps.judge import metrics_of
from sweeps.metrics import check_claims, check_metrics, measured_by
from sweeps.record import ArmRecord, Origin, StudyRecord, packed
from sweeps.scale import larger_scale
from sweeps.search.check import check_search
from sweeps.settled import settle
from sweeps.space import bounds, check_space
from sweeps.spec import StudySpec, arm_document, split


@dataclass(frozen=True)
class ArmPlan:
    """An arm or helper run ready to run. needs: the plans of the runs that it needs, in the order of its references.

    plans: one, for all seeds; or after a search with T tuning seeds, T of them: seed s has `plan_of(s)`, with the values
    that tuning seed s mod T chose. cost: as `arm_cost` computes it, of the first plan. tuned: {dotted key: the value of
    each plan}. bounds: as in an ArmRecord.
    """

    arm: Arm
    plans: tuple[experiment.RunPlan, ...]
    cost: dict[str, Any]
    needs: tuple["ArmPlan", ...] = ()
    tuned: dict[str, list[float]] = field(default_factory=dict)
    bounds: dict[str, list[float]] = field(default_factory=dict)

    def plan_of(self, seed: int) -> experiment.RunPlan:
        """The plan of the run with this seed."""
        return self.plans[seed % len(self.plans)]

    @property
    def identities(self) -> list[str]:
        """The identity of each plan."""
        return [plan.identity for plan in self.plans]

    @property
    def made(self) -> dict[int, experiment.RunPlan]:
        """{position of a reference: RunPlan} of the runs that are made because it needs them, as `experiment.plan` takes it."""
        return {position: need.plans[0] for position, need in zip(self.arm.needs, self.needs, strict=True)}


@dataclass(frozen=True)
class StudyPlan:
    """A study at one scale, ready to run. The first arm is the baseline; `runs` is the folder of all studies.

    choices, search: as in a StudyRecord. written: the study's Origin; None for one that was made in Python.
    """

    name: str
    scale: str | None
    spec: StudySpec
    arms: list[ArmPlan]
    runs: Path
    command: str = ""
    written: Origin | None = None
    choices: tuple[str, ...] = ()
    search: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self):
        """The folder of the study's record and of its own runs."""
        return folders.study_folder(self.runs, self.name, self.scale, self.spec.scales)

    def jobs(self, counts=None):
        """The runs of {arm label: number of seeds} (default: all arms up to the first look), each after those it needs.

        They go seed by seed, so that an interrupted study is balanced. Arms that resolve to the same experiment share
        their runs. A run that is finished in any study under `runs` is reused from its folder there; what only it
        needed is not made again.
        """
        counts = looking.first_counts(self.spec) if counts is None else counts
        jobs: dict[tuple[str, int], Job] = {}
        finished = folders.Finished(self.runs)
        for place in range(max(counts.values(), default=0)):
            for each in self.arms:
                if place < counts.get(each.arm.label, 0):
                    self._add(jobs, finished, each, self.spec.first_seed(each.arm.label) + place)
        return list(jobs.values())

    def needed(self, each, seeds):
        """The runs that the trials of an arm with these tuning seeds need, each after those it needs.

        `seed: same` is then the tuning seed: every tuning seed has a run of its own.
        """
        jobs: dict[tuple[str, int], Job] = {}
        finished = folders.Finished(self.runs)
        for seed in seeds:
            for need, (_, at) in zip(each.needs, each.plans[0].needs(seed), strict=True):
                self._add(jobs, finished, need, at)
        return list(jobs.values())

    def trial_folders(self, arm, identity, seeds):
        """{seed: the folder of its run} of a trial of an ArmPlan: of a run that finished in any study, else of this study's own."""
        finished, own = folders.Finished(self.runs, trials=True), self.folder / folders.TUNE
        places = {seed: folders.run_folder(own, arm.arm.name, identity, seed) for seed in seeds}
        return {seed: finished.folder(identity, seed, place) or place for seed, place in places.items()}

    def retrained(self, each, plan, seed, finished):
        """The Job that trains the run of an ArmPlan with one of its plans once more for its weights (`sweeps.retraining`).

        It has a folder of its own and measures nothing. finished: the `folders.Finished` of the runs of all studies.
        """
        same, above = self._same(each, seed).arm, self.folder / folders.RETRAINED
        places = {
            (need.plan_of(at).identity, at): self._run_folder(need, at, finished)
            for need, (_, at) in zip(each.needs, plan.needs(seed), strict=True)
        }
        located = plan.located(seed, places).model_copy(update={"evaluations": ()})
        # An arm's helper run before tuning may be an arm afterwards: one folder, whatever it is called.
        named = sorted(above.glob(f"*-{plan.identity[: folders.DIGEST]}/seed-{seed}"))
        folder = named[0] if named else folders.run_folder(above, same.name, plan.identity, seed)
        return Job(same.label, seed, located, folder, retrained=True)

    def every_plan(self):
        """{identity: (ArmPlan, plan)} of the arms and of all runs that they need, directly or not."""
        found, left = {}, list(self.arms)
        while left:
            each = left.pop()
            if each.plans[0].identity not in found:
                left += each.needs
            found |= {plan.identity: (each, plan) for plan in each.plans}
        return found

    def _add(self, jobs, finished, each, seed, wanted=True):
        """Add the run of an arm with a seed to {(identity, seed): Job}, after those that it needs."""
        plan = each.plan_of(seed)
        key = plan.identity, seed
        if key in jobs:
            return
        folder = self._run_folder(each, seed, finished)
        done = folders.is_finished(folder, *key)
        for need, (_, at) in zip(each.needs, plan.needs(seed), strict=True):
            self._add(jobs, finished, need, at, wanted and not done)
        if done or wanted:
            places = {need: job.folder for need, job in jobs.items()}
            located = plan if done else plan.located(seed, places)
            located = located.model_copy(update={"evaluations": self._evaluations(each, seed)})
            jobs[key] = Job(self._same(each, seed).arm.label, seed, located, folder)

    def _evaluations(self, each, seed):
        """The evaluations of every arm that shares this run of `each`: arms may differ in what is measured alone."""
        sharing = [each, *self._sharing(each, seed)]
        return tuple({one.file: one for other in sharing for one in other.plan_of(seed).evaluations}.values())

    def _sharing(self, each, seed):
        """The arms whose run with this seed is the same as that of `each`: those that have the seed, if any has it."""
        same = [other for other in self.arms if other.plan_of(seed).identity == each.plan_of(seed).identity]
        return [other for other in same if seed in self.spec.seeds_of(other.arm.label)] or same

    def _same(self, each, seed):
        """The first arm whose run with this seed is the same; a helper run without one stands for itself."""
        return next(iter(self._sharing(each, seed)), each)

    def _run_folder(self, each, seed, finished):
        identity = each.plan_of(seed).identity
        folder = folders.run_folder(self.folder, self._same(each, seed).arm.name, identity, seed)
        return finished.folder(identity, seed, folder) or folder

    def remarks(self):
        """Sentences on what is probably not meant: a window that does nothing, arms that are the same (`remarks.of_arms`)."""
        unknown = set(self.spec.search.winners if self.spec.search else ()) - set(self.search.get("winners", ()))
        known = [each for each in self.arms if each.arm.label not in unknown]
        specs = {each.arm.label: each.plans[0].spec for each in known}
        # Whether arms share their runs: the same experiment with other seeds has runs of its own.
        identities = {each.arm.label: (*each.identities, self.spec.first_seed(each.arm.label)) for each in known}
        own = [*ladder.remarks(self.spec, specs), *unused_runs(self.spec, [each.arm for each in self.arms])]
        return [*remarks.of_arms(specs, identities, self.spec.controls), *own]

    def record(self, counts=None, trials=(), edges=(), looks=(), earlier=(), search=None):
        """The StudyRecord. counts: {arm label: number of seeds so far}, by default those of the first look; an arm that is
        not yet tuned has none. search: what is known of the search so far.
        """
        counts = looking.first_counts(self.spec) if counts is None else counts
        jobs, labels = self.jobs(counts), [each.arm.label for each in self.arms]
        places = {(job.plan.identity, job.seed): folders.relative(job.folder, self.folder) for job in jobs}
        most = max(counts.values(), default=0) or self.spec.looks[0]
        claimed = sorted({name for names in metrics_of(self.spec).values() for name in names})
        helpers: dict[str, dict[str, str]] = {}
        measured: dict[str, dict[str, str]] = {}
        for job in jobs:
            if job.arm not in labels or job.seed not in self.spec.seeds_of(job.arm, most):
                helpers.setdefault(job.arm, {})[str(job.seed)] = places[job.plan.identity, job.seed]
                measured[job.arm] = {each.key: each.file for each in job.plan.evaluations}
        arms = {
            each.arm.label: ArmRecord(
                changes=packed(each.arm.changes),
                resolved=True,
                unwritten=list(each.arm.unwritten),
                cost=each.cost,
                identities=each.identities,
                runs={
                    str(seed): places[each.plan_of(seed).identity, seed]
                    for seed in self.spec.seeds_of(each.arm.label, counts.get(each.arm.label, 0))
                },
                tuned=each.tuned,
                bounds=each.bounds,
                evaluations=evaluations.files(each.plans[0].spec),
                costs=costs_of(self.spec, each.plans[0].spec, each.cost),
                seeds=counts.get(each.arm.label, 0) or None,
                first_seed=self.spec.first_seed(each.arm.label),
                measured_by=measured_by(each.plans[0].spec, claimed),
            )
            for each in self.arms
        }
        return StudyRecord(
            name=self.name,
            scale=self.scale,
            question=self.spec.question,
            arms=arms,
            helpers=helpers,
            helper_evaluations=measured,
            seeds=list(range(most)),
            spec=self.spec.dump(),
            claims=self.spec.claims,
            long_context=self.spec.long_context,
            larger_scale=larger_scale(self.spec, self.scale),
            trials=list(trials),
            tune_space={key: each.dump() for key, each in self.spec.tune.space.items()} if self.spec.tune else {},
            edges=list(edges),
            choices=list(self.choices),
            command=self.command,
            plan=looking.plan_record(self.spec),
            looks=list(looks),
            earlier=list(earlier),
            origin=origin.seen_from(self.folder, self.written),
            remarks=self.remarks(),
            matched=[match for each in self.arms for match in each.arm.matched],
            search=self.search if search is None else search,
            budget=[each.arm.budget for each in self.arms if each.arm.budget],
        )


def check(root, scale=None, paces=None, kept_precision=None):
    """(StudySpec, [Arm]) of a study document. Resolves every arm, also at both ends of every tuning range, and runs its
    model at small size (`experiments.plan.probed`). Arms have the values and steps that `match` and `budget` give them.

    paces: {`sweeps.paces.key`: seconds of a step} for a budget of seconds; an arm that it lacks keeps its written steps, and
    `plan` then refuses the study.

    kept_precision: what `train.precision: auto` became when the study began, by its folder (`sweeps.settled`).

    The keys and values of the other scales are checked too, so that a mistake there shows up now. Raises SpecError.
    """
    for other in split(root)[0].scales:
        if other != scale:
            spec, study, base = split(root, other)
            ExperimentSpec.parse(arm_document(study, base, next(iter(spec.arms))))
    spec, study, base, settled = settle(*split(root, scale), kept_precision)
    spec, study, found = matching.matched(spec, study, base)
    study = ladder.solved(spec, study, base)
    spec = spec.model_copy(update={"arms": study.value["arms"].plain()})
    spec, study, spending = budget.budgeted(spec, study, base, paces or {})
    family = Family(spec, study, base, found, spending, settled)
    arms = [family.arm(label) for label in spec.arms]
    for label in spec.runs:
        family.arm(label)
    check_metrics(study, spec, arms)
    check_claims(study, spec, arms)
    if spec.tune:
        for arm in arms:
            for position, need in arm.needs.items():
                _check_untuned(spec, arm, references.of(arm.spec)[position].key, need)
        check_space(study, spec, arms)
        matching.check_tuned(study, spec, found, arms)
        budget.check_tuned(study, spec, arms)
    check_search(study, spec, arms)
    for arm in family.arms.values():
        experiment.probed(arm.resolved)
    return spec, arms


def _check_untuned(spec, arm, key, need):
    """Raise SpecError where a tuned arm needs the run of another tuned arm: which of its values would be meant?"""
    for each in (need, *(other for other, _ in need.runs(0))):
        if each.label in spec.arms:
            reason = f"the arm {each.label!r} is tuned itself; name the run that is needed under `runs`, which are not tuned"
            raise arm.document.error(reason, key)


def plan(name, scale, spec, arms, runs, command="", written=None):
    """The StudyPlan of checked arms. Prepares their data and computes their identities. Raises SpecError, DataError.

    written: the study's Origin. SpecError is also raised where its folder holds the record of another study.
    """
    origin.check(folders.study_folder(runs, name, scale, spec.scales), name, scale, written)
    if unmeasured := budget.unmeasured(spec, arms):
        raise SpecError(f"the time of a step is not measured for {listed(map(repr, unmeasured))}", ("budget", "seconds"))
    planned: dict[str, ArmPlan] = {}

    def of(arm):
        if arm.label not in planned:
            if arm.spec.train.nodes > 1:
                reason = f"{arm.spec.train.nodes} nodes, but a run of a study uses one machine (`archbench run` can use more)"
                raise arm.document.error(reason, ("train", "nodes"))
            needs = {position: of(need) for position, need in arm.needs.items()}
            # Helper runs are not tuned, so that each need has one plan for all seeds.
            made = experiment.plan(arm.resolved, {position: need.plans[0] for position, need in needs.items()})
            planned[arm.label] = ArmPlan(arm, (made,), _cost(spec, made), tuple(needs.values()))
        return planned[arm.label]

    return StudyPlan(name, scale, spec, [of(arm) for arm in arms], Path(runs), command, written)


def _cost(spec, plan):
    return arm_cost(plan.spec, spec.long_context, plan.cost)


def tuned(study, chosen):
    """The study with its arms overridden by what each tuning seed chose.

    chosen: {arm label: its `sweeps.choice.Choice`}; arms without values stay as they are.
    """
    arms = [_tuned(study.spec, each, chosen[each.arm.label]) for each in study.arms]
    return replace(study, arms=arms, choices=tuple(note for choice in chosen.values() for note in choice.notes))


def _tuned(spec, planned, choice):
    choices = choice.values
    if not choices:
        return planned
    if all(values == choices[0] for values in choices):
        choices = choices[:1]
    plans: list[experiment.RunPlan] = []
    for values in choices:
        same = next((plan for plan, other in zip(plans, choices, strict=False) if other == values), None)
        plans.append(same or experiment.plan(overridden(planned.arm.document, values), planned.made))
    by_key = {key: [float(values[key]) for values in choices] for key in choices[0]}
    at_bounds = bounds(choice.searched or spec.tune, planned.arm, choices)
    return replace(planned, plans=tuple(plans), cost=_cost(spec, plans[0]), tuned=by_key, bounds=at_bounds)


def overridden(root, values):
    """An arm's document overridden by `values`: {dotted key: plain value}."""
    return document.overridden(root, document.node(values))


def arm_cost(spec, long_context, at_training=None):
    """An arm's cost at its training context, plus the key `long`: its cache bytes at the study's long context.

    at_training: the cost at the training context if it is known already.
    """
    long = {"context": long_context, "cache_bytes": cost.cache_bytes(spec.model, long_context)["total"]}
    mixed = precision.is_mixed(spec.train)
    known = at_training or costs.summary(spec.model, spec.data.context, plugin_sources(spec.model.dump()), mixed)
    return {**known, "long": long}
