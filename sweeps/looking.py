"""The looks of a running study: which seeds each arm gets next, and what is kept of the looks that were taken."""

import datetime
import json

from sweeps.judge import counted, is_exact, judge, plan_of, undecided_arms
from sweeps.outcomes import runs_of
from sweeps.record import NAME, EarlierRecord, LookRecord, PlanRecord, StudyRecord

# Fewer shared arms than this ask no question twice: a baseline alone says nothing of an arm.
SHARED = 2


def plan_record(spec):
    """The PlanRecord of a StudySpec, as it stands before the runs."""
    return PlanRecord(looks=spec.looks, questions=counted(spec.claims, spec.arms))


def first_counts(spec):
    """{arm: seeds} up to the first look."""
    return dict.fromkeys(spec.arms, spec.looks[0])


def look(record, folder, counts):
    """({claim: Ruling}, the next counts) of a study whose arms have had `counts`: {arm: seeds}."""
    rulings = judge(record, runs_of(record, folder))
    return rulings, next_counts(record, rulings, counts)


def next_counts(record, rulings, counts):
    """{arm: seeds} up to the next look, after a look with the seeds in `counts`.

    None if there is nothing more to run: every question is decided, the last look is taken, or runs are missing.
    """
    open_arms, looks, now = undecided_arms(record, rulings), plan_of(record).looks, max(counts.values())
    if not open_arms or now >= looks[-1] or any(ruling.missing for ruling in rulings.values()):
        return None
    following = next(number for number in looks if number > now)
    return {arm: following if arm in open_arms else number for arm, number in counts.items()}


def taken(rulings, number, looks):
    """The LookRecords with what could be read at `number` seeds: nothing before its runs had ended, more when more have.

    A look counts from its first word, since that can be acted upon.
    """
    read = {name: ruling for name, ruling in rulings.items() if ruling.look == number and not is_exact(ruling.claim)}
    if not read:
        return looks
    words = {name: {subject: each.word for subject, each in ruling.verdicts.items()} for name, ruling in read.items()}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    time = next((each.time for each in looks if each.seeds == number), now)
    return [*(each for each in looks if each.seeds != number), LookRecord(seeds=number, time=time, words=words)]


def history(study, record):
    """(looks, earlier): what is known of looks at the runs of a planned study, from its last StudyRecord and from others'.

    Looks under another plan are not paid for: more seeds, other claims or other arms after a look make a study exploratory.
    record: as the study would write it now.
    """
    looks, earlier = [], []
    old = StudyRecord.read_whole(study.folder)
    if old is not None and _looks(old) and _shares(old, record):
        if _stated(old) == _stated(record):
            looks, earlier = _looks(old), list(old.earlier)
        else:
            earlier = [*old.earlier, EarlierRecord(plan=plan_of(old), looks=_looks(old), why=_changed(old, record))]
    for folder in _other_studies(study, record):
        other = StudyRecord.read_whole(folder)
        if other is not None and _looks(other) and _shares(other, record) and _stated(other) != _stated(record):
            name = f"{other.name} at scale {other.scale or '-'}"
            if name not in [each.study for each in earlier]:
                earlier.append(EarlierRecord(plan=plan_of(other), looks=_looks(other), study=name, why=_changed(other, record)))
    return looks, earlier


def _looks(record):
    """The looks of a record. Records without a plan are older than looks: their report was made when their runs ended."""
    return record.looks or ([LookRecord(seeds=len(record.seeds), time="", words={})] if record.plan is None else [])


def _stated(record):
    """What a study states before its runs. Its claims are compared by content, not by name."""
    claims = sorted(json.dumps(each, sort_keys=True) for each in record.claims.values())
    return plan_of(record), claims, sorted(tuple(arm.identities) for arm in record.arms.values())


def _shares(old, new):
    """Whether two records have runs of SHARED arms in common."""
    return len(_identities(old) & _identities(new)) >= SHARED


def _identities(record):
    return {tuple(arm.identities) for arm in record.arms.values()}


def _changed(old, new):
    """What of a plan changed, in words."""
    before, after = _stated(old), _stated(new)
    parts = ["the seeds"] if before[0].looks != after[0].looks else []
    parts += ["the claims"] if before[1] != after[1] else []
    parts += ["the arms"] if before[2] != after[2] else []
    return " and ".join(parts) or "the plan"


def _other_studies(study, record):
    """Folders of other studies whose runs this one reuses."""
    here = study.folder.resolve()
    runs = {(study.folder / place).resolve() for arm in record.arms.values() for place in arm.runs.values()}
    parents = {run.parents[1] for run in runs if here not in run.parents}
    return sorted(parent for parent in parents if (parent / NAME).is_file())
