"""How a study's file has changed since its record was written: which arms and seeds are new, gone, or no longer the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arch.spec import ABSENT, diff, spelt
from arch.words import listed_names, times
from experiments import plan as experiment
from experiments.spec import EvaluateSpec, ExperimentSpec
from sweeps import first_seeds, looking
from sweeps.arms import Arm
from sweeps.folders import record_of
from sweeps.record import StudyRecord
from sweeps.spec import StudySpec

# Where the texts lie, and how devices share the work, makes no run another one.
SAME_RUN = ("data.source.", "train.strategy", "train.checkpoint_every")


@dataclass(frozen=True)
class Edited:
    """seeds: {arm of the file: how many seeds it is to have now}. changed: {arm: what of it, in words}. claims: whether they
    changed. looked: the number of seeds at the last look that was taken; 0 before the first. baseline: the two first arms,
    where they differ. tuning: how the search of each arm for its own values changed, in words.
    """

    seeds: Mapping[str, Sequence[int]]
    new: Sequence[str] = ()
    gone: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[int, int] | None = None
    claims: bool = False
    looked: int = 0
    baseline: tuple[str, str] | None = None
    tuning: str = ""

    @property
    def warning(self) -> str:
        """What a start with these changes makes of the study; empty where no verdict has been read, or the plan is the same."""
        asked = self.looks, self.new, self.gone, self.changed, self.claims, self.baseline, self.tuning
        if not (self.looked and any(asked)):
            return ""
        return (
            f"its verdicts have been read at {times(self.looked, 'seed')}: a start with these changes makes the study exploratory, "
            "and one with the file as it was does not (docs/statistics.md)"
        )

    @property
    def words(self) -> str:
        """`+c, -d, b changed (train.steps: 10 -> 20), seeds 3 -> 4`; empty if the file asks for what was run."""
        said = [f"+{label}" for label in self.new] + [f"-{label}" for label in self.gone]
        said += [f"{listed_names(labels)} changed ({what})" for what, labels in self._together().items()]
        said += [f"baseline {self.baseline[0]} -> {self.baseline[1]}"] if self.baseline else []
        said += [self.tuning] if self.tuning else []
        said += ["claims changed"] if self.claims else []
        return ", ".join([*said, *([f"seeds {self.looks[0]} -> {self.looks[1]}"] if self.looks else [])])

    def _together(self) -> dict[str, list[str]]:
        """{what changed: the arms in which it did}: a change of the base is one change."""
        groups: dict[str, list[str]] = {}
        for label, what in self.changed.items():
            groups.setdefault(what, []).append(label)
        return groups


def since(folder: Path, record: StudyRecord, spec: StudySpec, arms: Sequence[Arm]) -> Edited:
    """What the file, resolved to `spec` and `arms`, says otherwise than the record in `folder` and the runs that it names."""
    before = record.plan.looks[-1] if record.plan else len(record.seeds)
    looks = (before, spec.most_seeds) if before != spec.most_seeds else None
    winners = spec.search.winners if spec.search else ()
    written = [arm for arm in arms if arm.label not in winners]
    changed = {arm.label: what for arm in written if (what := _changed(folder, record, arm, spec.first_seed(arm.label)))}
    seeds = {arm.label: spec.seeds_of(arm.label, _seeds(record, spec, arm.label, bool(looks))) for arm in arms}
    new = [arm.label for arm in written if arm.label not in record.arms]
    gone = [label for label in record.arms if label not in seeds]
    claims = looking.claimed(record.claims) != looking.claimed(spec.claims)
    looked = record.looks[-1].seeds if record.looks else 0
    first = next(iter(record.arms), ""), next(iter(spec.arms))
    return Edited(seeds, new, gone, changed, looks, claims, looked, first if first[0] != first[1] else None, _tuning(record, spec))


def _tuning(record, spec):
    now = {key: values.dump() for key, values in spec.tune.space.items()} if spec.tune else {}
    if now == record.tune_space:
        return ""
    return f"tune {'added' if not record.tune_space else 'removed' if not now else 'changed'}"


def _seeds(record, spec, label, more):
    """How many seeds an arm has, or is to have at the first look of the new plan."""
    had = len(record.seeds_of(label)) if label in record.arms else 0
    return max(had, spec.looks[0]) if more or not had else had


def _changed(folder: Path, record: StudyRecord, arm: Arm, first_seed: int) -> str:
    """How an arm's runs would be others than those that were made, in words; empty where none were made."""
    known = record.arms.get(arm.label)
    runs = (record_of(folder / place) for place in known.runs.values()) if known else ()
    run = next(filter(None, runs), None)
    if known is None or run is None:
        return ""
    differences = diff(_whole(experiment.resolve(run.spec)), _whole(arm.spec))  # an older release may have written it
    differences = {key: pair for key, pair in differences.items() if not key.startswith(SAME_RUN) and key not in known.tuned}
    if known.first_seed != first_seed:
        differences[first_seeds.KEY] = (known.first_seed, first_seed)
    return ", ".join(f"{key}: {_spelt(was)} -> {_spelt(now)}" for key, (was, now) in differences.items())


def _whole(spec: ExperimentSpec) -> dict[str, Any]:
    """A spec with every option, but for what is measured: that makes no run another one."""
    return experiment.whole(spec.model_copy(update={"evaluate": EvaluateSpec(select={}, report={})}))


def _spelt(value: Any) -> str:
    return "absent" if value is ABSENT else spelt(value)
