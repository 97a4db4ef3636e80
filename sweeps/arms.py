"""The arms and helper runs of a study as a graph: which run needs the weights of which (`init_from`, a teacher)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arch import checkpoint, document
from arch.errors import SpecError, nearest
from arch.spec import diff, unwritten
from experiments import plan as experiment
from experiments import references
from experiments.spec import RunReference
from experiments.start import is_spec
from sweeps import folders
from sweeps.record import BudgetRecord, MatchRecord
from sweeps.spec import arm_document


@dataclass(frozen=True)
class Arm:
    """One arm or helper run, resolved.

    name: its label as a file name. changes: how its resolved spec differs from the baseline's, {dotted key: (baseline
    value, own value)}, as `arch.spec.diff` compares. unwritten: the keys among them that only follow from the type of a
    component (see `arch.spec.unwritten`). matched: what `match` made of it.
    budget: the steps that `budget` gave it, if it did. precision: what its `train.precision: auto` became, if it says that.
    needs: {position in `experiments.references.of(spec)`: the Arm that it starts from, or that its objective uses}; folders
    are not in it.
    """

    label: str
    name: str
    resolved: experiment.Resolved
    changes: dict[str, tuple[Any, Any]]
    needs: dict[int, "Arm"]
    unwritten: tuple[str, ...] = ()
    matched: tuple[MatchRecord, ...] = ()
    budget: BudgetRecord | None = None
    precision: str = ""

    @property
    def document(self):
        """The arm's experiment as written."""
        return self.resolved.document

    @property
    def spec(self):
        """The arm's ExperimentSpec with every default filled in."""
        return self.resolved.spec

    def runs(self, seed):
        """Yields (Arm, seed) of every run that this arm's run with `seed` needs, directly or not; needs come first."""
        for position, need in self.needs.items():
            rule = references.of(self.spec)[position].reference.seed
            at = seed if rule == "same" else rule
            yield from need.runs(at)
            yield need, at


def differences(baseline: experiment.Resolved, resolved: experiment.Resolved) -> tuple[dict[str, tuple[Any, Any]], tuple[str, ...]]:
    """(`changes`, `unwritten`) of an Arm: how a resolved experiment differs from the baseline's."""
    changes = diff(experiment.whole(baseline.spec), experiment.whole(resolved.spec))
    return changes, tuple(unwritten(changes, baseline.written, resolved.written))


def with_overrides(spec, study, values, place):
    """(StudySpec, study node) with {label: {dotted key: value}} as further overrides of arms and helper runs.

    place: the Node whose file and line errors about these values name.
    """

    def more(node):
        new = {
            label: replace(arm, value={**arm.value, **document.node(values.get(label, {}), place.file, place.line).value})
            for label, arm in node.value.items()
        }
        return replace(node, value=new)

    labels = {key: getattr(spec, key) for key in ("arms", "runs")}
    update = {key: {label: {**arm, **values.get(label, {})} for label, arm in arms.items()} for key, arms in labels.items()}
    nodes = {key: more(study.value[key]) for key in labels if key in study.value}
    return spec.model_copy(update=update), replace(study, value={**study.value, **nodes})


def unused_runs(spec, arms):
    """Sentences on the helper runs of a StudySpec that none of the arms needs: they are not made."""
    everyone = [*arms, *(need for arm in arms for need, _ in arm.runs(0))]
    named = [reference for each in everyone for _, reference, _ in references.of(each.spec) if isinstance(reference, RunReference)]
    used = {reference.run for reference in named}
    return [f"the run {label!r} is not made: no arm starts from it or uses it" for label in spec.runs if label not in used]


class Family:
    """The arms and helper runs of a study document. Each is resolved once, when it is first asked for."""

    def __init__(self, spec, study, base, matched=(), budget=(), settled=None):
        """matched, budget: the MatchRecords and BudgetRecords of all arms. settled: a `sweeps.settled.Settled`, or None."""
        self.settled = settled
        self.matched, self.budget = matched, {each.arm: each for each in budget}
        self.spec, self.study, self.base = spec, study, base
        self.labels, self.arms = [*spec.arms, *spec.runs], {}
        self.baseline = experiment.resolved(arm_document(study, base, next(iter(spec.arms))))

    def arm(self, label):
        """The Arm of a label of `arms` or `runs`. Raises SpecError, also for circles and names that are not known."""
        return self._resolved(label, arm_document(self.study, self.base, label), ())

    def _resolved(self, label, written, above):
        if label in self.arms:
            return self.arms[label]
        settled = self.settled if self.settled and (label in self.settled.labels or self.settled.is_of(written)) else None
        if settled:
            written = settled.document(written)
        resolved = self.baseline if label == self.labels[0] else experiment.resolved(written)
        if settled:
            resolved = replace(resolved, notes=(settled.note, *resolved.notes))
        if label not in self.labels:
            self.labels.append(label)
        needs = {}
        for position, (key, reference, _) in enumerate(references.of(resolved.spec)):
            if (
                isinstance(reference, str)
                and reference in {**self.spec.arms, **self.spec.runs}
                and not checkpoint.is_checkpoint(reference)
            ):
                raise written.error(f"no folder {reference!r}; the run of this study is `{{run: {reference}, seed: 0}}`", key)
            if isinstance(reference, RunReference) and (here := self._document(written, key, reference)) is not None:
                if reference.label in (*above, label):
                    chain = " -> ".join((*above, label, reference.label))
                    raise written.error(f"a run cannot need itself: {chain}", (*key, "run"))
                needs[position] = self._resolved(reference.label, here, (*above, label))
        name = folders.safe_names(self.labels)[label]
        changes, follow = differences(self.baseline, resolved)
        matched = tuple(each for each in self.matched if each.arm == label)
        became = settled.became if settled else ""
        self.arms[label] = Arm(label, name, resolved, changes, needs, follow, matched, self.budget.get(label), became)
        return self.arms[label]

    def _document(self, written, key, reference):
        """The document of the run that a reference names, with its overrides; None for a folder."""
        if reference.run in self.spec.arms or reference.run in self.spec.runs:
            named = arm_document(self.study, self.base, reference.run)
        elif checkpoint.is_checkpoint(Path(reference.run).expanduser()):
            return None
        elif is_spec(reference.run):
            try:
                named = document.load(reference.run, "experiments")
            except SpecError as error:
                raise written.error(error.reason, (*key, "run")) if error.file is None else error from None
        else:
            known = [*self.spec.arms, *self.spec.runs]
            hint = nearest(reference.run, known)
            raise written.error(f"no run {reference.run!r}{hint} (or a spec, or the folder of a checkpoint)", (*key, "run"))
        return document.overridden(named, written.at((*key, "set"))) if reference.set else named
