"""Plan a study: every arm at the chosen scale is checked and resolved before anything is written."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arch import cost, document
from experiments import evaluations
from experiments import plan as experiment
from experiments.spec import ExperimentSpec
from sweeps import folders
from sweeps.arms import Arm, Family
from sweeps.job import Job
from sweeps.metrics import check_claims, check_metrics
from sweeps.record import ArmRecord, StudyRecord
from sweeps.scale import larger_scale
from sweeps.space import check_space
from sweeps.spec import StudySpec, arm_document, split


@dataclass(frozen=True)
class ArmPlan:
    """An arm or helper run ready to run. needs: the plans of the runs that it starts from, in the order of its references.

    cost: as `arm_cost` computes it. tuned: the values that tuning chose.
    """

    arm: Arm
    plan: experiment.RunPlan
    cost: dict[str, Any]
    needs: tuple["ArmPlan", ...] = ()
    tuned: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyPlan:
    """A study at one scale, ready to run. The first arm is the baseline; `runs` is the folder of all studies."""

    name: str
    scale: str | None
    spec: StudySpec
    arms: list[ArmPlan]
    runs: Path
    command: str = ""

    @property
    def folder(self):
        """The folder of the study's record and of its own runs."""
        return folders.study_folder(self.runs, self.name, self.scale)

    @property
    def seeds(self):
        """The seeds of the reported runs."""
        return list(range(self.spec.seeds))

    def jobs(self, arms=None):
        """The runs of these arms (default: all), each after those that it needs.

        They go seed by seed, so that an interrupted study is balanced. Arms that resolve to the same experiment share
        their runs. A run that is finished in any study under `runs` is reused from its folder there; what only it
        needed is not made again.
        """
        jobs, finished = {}, folders.Finished(self.runs)

        def add(each, seed, wanted=True):
            key = each.plan.identity, seed
            if key in jobs:
                return
            folder = self._run_folder(each, seed, finished)
            done = folders.is_finished(folder, *key)
            for need, (_, at) in zip(each.needs, each.plan.needs(seed), strict=True):
                add(need, at, wanted and not done)
            if done or wanted:
                places = {need: job.folder for need, job in jobs.items()}
                plan = each.plan if done else each.plan.located(seed, places)
                plan = plan.model_copy(update={"evaluations": self._evaluations(each)})
                jobs[key] = Job(self._same(each).arm.label, seed, plan, folder)

        for seed in self.seeds:
            for each in self.arms if arms is None else arms:
                add(each, seed)
        return list(jobs.values())

    def _evaluations(self, each):
        """The evaluations of every arm that shares the runs of `each`: arms may differ in what is measured alone."""
        sharing = [each, *(other for other in self.arms if other.plan.identity == each.plan.identity)]
        return tuple({one.file: one for other in sharing for one in other.plan.evaluations}.values())

    def _same(self, each):
        """The first arm that resolves to the same experiment; a helper run without one stands for itself."""
        return next((other for other in self.arms if other.plan.identity == each.plan.identity), each)

    def _run_folder(self, each, seed, finished):
        folder = folders.run_folder(self.folder, self._same(each).arm.name, each.plan.identity, seed)
        return finished.folder(each.plan.identity, seed, folder) or folder

    def shared(self):
        """Sentences that name the arms that share their runs because they resolve to the same experiment."""
        first, said = {}, []
        for each in self.arms:
            other = first.setdefault(each.plan.identity, each.arm.label)
            if other != each.arm.label:
                said.append(f"arms {other!r} and {each.arm.label!r} resolve to the same experiment and share their runs")
        return said

    def record(self, without_runs=(), trials=(), edges=()):
        """The StudyRecord. without_runs: labels of arms that have no reported runs yet because tuning is not done."""
        reported = [each for each in self.arms if each.arm.label not in without_runs]
        jobs, labels = self.jobs(reported), [each.arm.label for each in self.arms]
        places = {(job.plan.identity, job.seed): folders.relative(job.folder, self.folder) for job in jobs}
        helpers: dict[str, dict[str, str]] = {}
        for job in jobs:
            if job.arm not in labels or job.seed not in self.seeds:
                helpers.setdefault(job.arm, {})[str(job.seed)] = places[job.plan.identity, job.seed]
        arms = {
            each.arm.label: ArmRecord(
                changes=each.arm.changes,
                cost=each.cost,
                identity=each.plan.identity,
                runs={str(seed): places[each.plan.identity, seed] for seed in self.seeds if each.arm.label not in without_runs},
                tuned=each.tuned,
                evaluations=evaluations.files(each.plan.spec),
            )
            for each in self.arms
        }
        return StudyRecord(
            name=self.name,
            scale=self.scale,
            question=self.spec.question,
            arms=arms,
            helpers=helpers,
            seeds=self.seeds,
            spec=self.spec.dump(),
            claims=self.spec.claims,
            long_context=self.spec.long_context,
            larger_scale=larger_scale(self.spec, self.scale),
            trials=list(trials),
            tune_space={key: each.dump() for key, each in self.spec.tune.space.items()} if self.spec.tune else {},
            edges=list(edges),
            command=self.command,
        )


def check(root, scale=None):
    """(StudySpec, [Arm]) of a study document. Resolves every arm, also at both ends of every tuning range, and runs its
    model at small size (`experiments.plan.probed`).

    The keys and values of the other scales are checked too, so that a mistake there shows up now. Raises SpecError.
    """
    for other in split(root)[0].scales:
        if other != scale:
            spec, study, base = split(root, other)
            ExperimentSpec.parse(arm_document(study, base, next(iter(spec.arms))))
    spec, study, base = split(root, scale)
    family = Family(spec, study, base)
    arms = [family.arm(label) for label in spec.arms]
    for label in spec.runs:
        family.arm(label)
    for arm in family.arms.values():
        experiment.probed(arm.resolved)
    check_claims(study, spec)
    check_metrics(study, spec, arms)
    if spec.tune:
        for arm in arms:
            if arm.needs:
                reason = "a study with `tune` cannot make the run that an arm starts from; give the folder of a finished run"
                raise arm.document.error(reason, ("init_from",))
        check_space(study, spec, arms)
    return spec, arms


def plan(name, scale, spec, arms, runs, command=""):
    """The StudyPlan of checked arms. Prepares their data and computes their identities. Raises SpecError, DataError."""
    planned: dict[str, ArmPlan] = {}

    def of(arm):
        if arm.label not in planned:
            if arm.spec.train.devices > 1:
                reason = f"{arm.spec.train.devices} devices, but a run of a study uses one (`archbench run` can use more)"
                raise arm.document.error(reason, ("train", "devices"))
            needs = {position: of(need) for position, need in arm.needs.items()}
            made = experiment.plan(arm.resolved, {position: need.plan for position, need in needs.items()})
            planned[arm.label] = _arm_plan(spec, arm, made, tuple(needs.values()))
        return planned[arm.label]

    return StudyPlan(name, scale, spec, [of(arm) for arm in arms], Path(runs), command)


def _arm_plan(spec, arm, plan, needs=(), tuned_values=()):
    return ArmPlan(arm, plan, arm_cost(plan.spec, spec.long_context, plan.cost), needs, dict(tuned_values))


def tuned(study, chosen):
    """The study with its arms overridden by `chosen`: {arm label: {dotted key: value}}."""
    arms = []
    for planned in study.arms:
        values = chosen.get(planned.arm.label, {})
        if values:
            here = overridden(planned.arm.document, values)
            tuned_values = {key: float(value) for key, value in values.items()}
            arms.append(_arm_plan(study.spec, planned.arm, experiment.plan(here), tuned_values=tuned_values))
        else:
            arms.append(planned)
    return replace(study, arms=arms)


def overridden(root, values):
    """An arm's document overridden by `values`: {dotted key: plain value}."""
    return document.overridden(root, document.node(values))


def arm_cost(spec, long_context, at_training=None):
    """An arm's cost at its training context, plus the key `long`: its cache bytes at the study's long context.

    at_training: the cost at the training context if it is known already.
    """
    long = {"context": long_context, "cache_bytes": cost.cache_bytes(spec.model, long_context)["total"]}
    return {**(at_training or cost.summary(spec.model, spec.data.context)), "long": long}
