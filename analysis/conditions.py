"""What else is or is not the same in every arm, beside the specs: from the resolved specs and the records of the runs.

"Everything else is the same" is true only of what was compared. So it is put together from comparisons.
"""

from dataclasses import dataclass

from arch.errors import SpecError
from arch.spec import diff
from arch.words import MOST, listed, times
from experiments.record import THREADS
from experiments.spec import ExperimentSpec
from sweeps.record import packed


@dataclass(frozen=True)
class Condition:
    """A fact of the runs' records that is not the same in all of them.

    name: in words. values: {value as text: [(arm, seed)]}. paired: whether it differs between an arm's run and the
    baseline's run with the same seed (with any, where their seeds are others), and so may be what their comparison shows.
    """

    name: str
    values: dict[str, list[tuple[str, int]]]
    paired: bool

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(f'{value} in {_runs(runs)}' for value, runs in self.values.items())}"


def unequal(study):
    """The Conditions that differ among the runs of a StudyData: hardware, threads, code, versions, plug-ins, data."""
    facts = {key: run.facts for key, run in study.records.items()}
    if any("train.threads" in arm.changes for arm in study.record.arms.values()):  # then the specs say it already
        facts = {key: {name: value for name, value in each.items() if name != THREADS} for key, each in facts.items()}
    found = []
    for name in dict.fromkeys(name for each in facts.values() for name in each):
        have = {key: each[name] for key, each in facts.items() if name in each}
        values: dict[str, list[tuple[str, int]]] = {}
        for key, value in have.items():
            values.setdefault(value, []).append(key)
        if len(values) > 1:
            base = {seed: value for (arm, seed), value in have.items() if arm == study.baseline}
            firsts = study.record.first_seeds
            others = {arm for arm in study.record.arms if firsts.get(arm) != firsts.get(study.baseline)}
            # Runs with other seeds than the baseline's are compared with all of the baseline's.
            paired = any(
                {value} != {*base.values()} if arm in others and base else value != base.get(seed, value)
                for (arm, seed), value in have.items()
            )
            found.append(Condition(name, values, paired))
    return found


def _runs(runs):
    """Runs in words: `1:1 (seed 0), 3:1 (seeds 1, 2)`."""
    by_arm: dict[str, list[int]] = {}
    for arm, seed in runs:
        by_arm.setdefault(arm, []).append(seed)
    seeds = {arm: f"seed{'s' if len(each) > 1 else ''} {', '.join(map(str, each))}" for arm, each in by_arm.items()}
    named = [f"{arm} ({text})" for arm, text in seeds.items()]
    return ", ".join(named if len(named) <= MOST + 1 else [*named[:MOST], f"{len(named) - MOST} more"])


def unlisted(study):
    """Keys in which the specs that the runs recorded differ from the baseline's though the arm's `changes` lack them.

    Only what is part of a run's identity is compared: a run may have been made for another study, which read the same
    data from other files or measured something else. Values that tuning chose are listed by themselves.
    """
    specs = _specs(study.records)
    if study.baseline not in specs:
        return []
    first, decides = study.record.arms[study.baseline], specs[study.baseline].dump(identity=True)
    keys: dict[str, None] = {}
    for label, spec in specs.items():
        arm = study.record.arms[label]
        known = {*arm.changes, *arm.tuned, *first.tuned}
        keys |= dict.fromkeys(key for key in diff(decides, spec.dump(identity=True)) if key not in known)
    return list(keys)


def _specs(records):
    """{arm: the resolved spec that its first run recorded}; an arm whose runs recorded none that can be read is left out."""
    specs: dict[str, ExperimentSpec] = {}
    for (arm, _), run in records.items():
        if arm not in specs and (spec := _parsed(run.spec)) is not None:
            specs[arm] = spec
    return specs


def _parsed(data):
    try:
        return ExperimentSpec.parse(data)
    except SpecError:  # of another release, or no experiment
        return None


def with_differences(record, records):
    """A StudyRecord in which arms of an older record are compared by the resolved specs that their runs recorded.

    records: {(arm, seed): RunRecord}. An arm without one keeps what its text says.
    """
    specs = {} if all(arm.resolved for arm in record.arms.values()) else _specs(records)
    base, *_ = record.arms
    if base not in specs:
        return record
    arms = {}
    for label, arm in record.arms.items():
        arms[label] = arm
        if not arm.resolved and label in specs:
            tuned = {*arm.tuned, *record.arms[base].tuned}
            found = {key: pair for key, pair in diff(specs[base], specs[label]).items() if key not in tuned}
            if arm.evaluations:  # a run's spec asks for what the study measured that made it, maybe another one
                found = {key: pair for key, pair in found.items() if not _is_measured(key)}
                found |= {key: pair for key, pair in arm.differences.items() if _is_measured(key)}
            arms[label] = arm.model_copy(update={"changes": packed(found), "resolved": True})
    return record.model_copy(update={"arms": arms})


def _is_measured(key):
    return key.startswith("evaluate.")


def _code(runs):
    """What is not known of the runs' code, as a sentence after others; empty where a commit says all of it."""
    if any(run.git.get("dirty") for run in runs.values()):
        return " The code had uncommitted changes, which nobody compared."
    return "" if all("commit" in run.git for run in runs.values()) else " Of the code no commit is known."


def rest(study):
    """(sentences on everything that the table of differences does not list, whether one of them is a warning)."""
    arms, runs = study.record.arms, study.records
    said, hidden = [], unlisted(study)
    if not all(arm.resolved for arm in arms.values()):
        said.append("The texts of the specs are compared, not what they resolve to: this record is older.")
    elif hidden:
        said.append(f"The runs' own records also differ in {listed(hidden)}.")
    else:
        beyond = " or at its default in a component that only some arms have" if any(arm.unwritten for arm in arms.values()) else ""
        said.append(f"Every other option of the resolved specs is the same in every arm{',' if beyond else ''}{beyond}.")
    found = unequal(study)
    paired, others = [each for each in found if each.paired], [each for each in found if not each.paired]
    if not runs:
        said.append("No run has a record yet, so nothing can be said of machine, code and data.")
    elif not found:
        same = ["the machine", *(["the code"] if not _code(runs) else []), "the versions", "the data"]
        said.append(f"So are {listed(same)} of the {times(len(runs), 'run')} with a record.{_code(runs)}")
    said += [f"Not the same in runs that are compared: {each}." for each in paired]
    said += [f"The same in runs that are compared, but not over seeds: {each}." for each in others]
    return said, bool(paired or hidden)
