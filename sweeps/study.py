"""Plan a study: every arm at the chosen scale is checked and resolved before anything is written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arch import cost, document
from arch.spec import diff
from experiments import evaluations
from experiments import plan as experiment
from experiments.spec import ExperimentSpec
from sweeps import folders
from sweeps.job import Job
from sweeps.metrics import check_claims, check_metrics
from sweeps.record import ArmRecord, StudyRecord
from sweeps.scale import larger_scale
from sweeps.space import check_space
from sweeps.spec import StudySpec, arm_document, split


@dataclass(frozen=True)
class Arm:
    """One arm, resolved. name: its label as a file name. changes: how its text differs from the baseline's."""

    label: str
    name: str
    resolved: experiment.Resolved
    changes: dict[str, list[Any]]

    @property
    def document(self):
        """The arm's experiment as written."""
        return self.resolved.document

    @property
    def spec(self):
        """The arm's ExperimentSpec with every default filled in."""
        return self.resolved.spec


@dataclass(frozen=True)
class ArmPlan:
    """An arm ready to run. plan: its RunPlan. cost: as `arm_cost` computes it. tuned: the values that tuning chose."""

    arm: Arm
    plan: Any
    cost: dict[str, Any]
    tuned: dict[str, float]


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
        """The reported runs of these arms (default: all), seed by seed, so that an interrupted study is balanced.

        Arms that resolve to the same experiment share their runs. A run that is finished in any study under `runs` is
        reused from its folder there.
        """
        jobs, finished = {}, folders.Finished(self.runs)
        for seed in self.seeds:
            for each in self.arms if arms is None else arms:
                key = each.plan.identity, seed
                if key not in jobs:
                    jobs[key] = Job(each.arm.label, seed, each.plan, self._run_folder(each, seed, finished))
        return list(jobs.values())

    def _run_folder(self, each, seed, finished):
        same = next(other for other in self.arms if other.plan.identity == each.plan.identity)
        folder = folders.run_folder(self.folder, same.arm.name, each.plan.identity, seed)
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
        places = {(job.plan.identity, job.seed): folders.relative(job.folder, self.folder) for job in self.jobs(reported)}
        arms = {
            each.arm.label: ArmRecord(
                changes=each.arm.changes,
                cost=each.cost,
                identity=each.plan.identity,
                runs={str(seed): places[each.plan.identity, seed] for seed in self.seeds if each.arm.label not in without_runs},
                tuned=each.tuned,
                evaluations={evaluation.key: evaluation.file for evaluation in evaluations.planned(each.plan.spec)},
            )
            for each in self.arms
        }
        return StudyRecord(
            name=self.name,
            scale=self.scale,
            question=self.spec.question,
            arms=arms,
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
    """(StudySpec, [Arm]) of a study document. Resolves every arm, also at both ends of every tuning range.

    The keys and values of the other scales are checked too, so that a mistake there shows up now. Raises SpecError.
    """
    for other in split(root)[0].scales:
        if other != scale:
            spec, study, base = split(root, other)
            ExperimentSpec.parse(arm_document(study, base, next(iter(spec.arms))))
    spec, study, base = split(root, scale)
    names = folders.safe_names(spec.arms)
    written = {label: arm_document(study, base, label) for label in spec.arms}
    baseline = next(iter(written.values())).plain()
    arms = [
        Arm(
            label,
            names[label],
            experiment.resolved(here),
            {key: list(pair) for key, pair in diff(baseline, here.plain()).items()},
        )
        for label, here in written.items()
    ]
    check_claims(study, spec)
    check_metrics(study, spec, arms)
    if spec.tune:
        check_space(study, spec, arms)
    return spec, arms


def plan(name, scale, spec, arms, runs, command=""):
    """The StudyPlan of checked arms. Prepares their data and computes their identities. Raises SpecError, DataError."""
    for arm in arms:
        if arm.spec.train.devices > 1:
            reason = f"{arm.spec.train.devices} devices, but a run of a study uses one (`archbench run` can use more)"
            raise arm.document.error(reason, ("train", "devices"))
    planned = [_arm_plan(spec, arm, experiment.plan(arm.resolved)) for arm in arms]
    return StudyPlan(name, scale, spec, planned, Path(runs), command)


def _arm_plan(spec, arm, plan, tuned_values=()):
    return ArmPlan(arm, plan, arm_cost(plan.spec, spec.long_context, plan.cost), dict(tuned_values))


def tuned(study, chosen):
    """The study with its arms overridden by `chosen`: {arm label: {dotted key: value}}."""
    arms = []
    for planned in study.arms:
        values = chosen.get(planned.arm.label, {})
        if values:
            here = overridden(planned.arm.document, values)
            tuned_values = {key: float(value) for key, value in values.items()}
            arms.append(_arm_plan(study.spec, planned.arm, experiment.plan(here), tuned_values))
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
