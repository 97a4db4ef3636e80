"""The looks of a running study: which seeds each arm gets next, and what is kept of the looks that were taken."""

import datetime

from arch.errors import DataError, SpecError
from arch.spec import digest
from arch.words import times
from sweeps.comparable import NOT_COMPARABLE
from sweeps.judge import built, counted, is_exact, judge, plan_of, questions, undecided_arms
from sweeps.outcomes import runs_of
from sweeps.record import NAME, EarlierRecord, LookRecord, PlanRecord, StudyRecord
from sweeps.scale import at_scale

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
    asked = questions(record.claims, record.arms)
    missing = [each for name in asked for each in asked[name] if each.subject in rulings[name].missing]
    # An arm whose search found nothing has no runs to wait for.
    waiting = any(all(counts[arm] for arm in each.arms) for each in missing)
    if not open_arms or now >= looks[-1] or waiting:
        return None
    following = next(number for number in looks if number > now)
    return {arm: following if arm in open_arms else number for arm, number in counts.items()}


def taken(rulings, number, looks):
    """The LookRecords with the look at `number` seeds, if some question was judged there.

    A look counts from its first word, since that can be acted upon. A word that was missing is added to it later; so is one in
    place of "not comparable", which says nothing of what was measured, but of a release that could not compare it.
    """
    read = {name: ruling for name, ruling in rulings.items() if ruling.look == number and not is_exact(ruling.claim)}
    if not number or not read:
        return looks
    words = {name: {subject: each.word for subject, each in ruling.verdicts.items()} for name, ruling in read.items()}
    before = next((each for each in looks if each.seeds == number), None)
    if before is None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return [*looks, LookRecord(seeds=number, time=now, words=words)]
    said = {
        name: {subject: word for subject, word in each.items() if word != NOT_COMPARABLE} for name, each in before.words.items()
    }
    words = before.words | {name: each | said.get(name, {}) for name, each in words.items()}
    return [each.model_copy(update={"words": words}) if each is before else each for each in looks]


def begun(record):
    """Whether a StudyRecord knows of looks, or of runs whose verdicts may have been read: it must not be forgotten."""
    return bool(record.looks or record.earlier or any(arm.runs for arm in record.arms.values()))


def history(study, record):
    """(looks, earlier): what is known of looks at the runs of a planned study, from its last StudyRecord and from others'.

    Looks under another plan are not paid for: more seeds, other claims or other arms after a look make a study exploratory.
    Whoever goes back to a plan, before a look under the other one, is where they were. record: as the study would write it now.
    """
    looks, earlier = [], []
    old = StudyRecord.read_whole(study.folder)
    if old is not None and _shares(old, record):
        earlier = list(old.earlier)
        if _stated(old) == _stated(record):
            looks = old.looks
        elif seen := _seen(old, study.folder):
            earlier.append(EarlierRecord(plan=plan_of(old), looks=seen, why=_changed(old, record), stated=_digest(old)))
        own = [each for each in earlier if not each.study and each.stated == _digest(record)]
        looks = looks or (own[-1].looks if own else [])
        earlier = [each for each in earlier if each not in own]
    for folder in _other_studies(study, record):
        other = StudyRecord.read_whole(folder)
        if other is None:
            continue
        name = f"{other.name}{at_scale(other.scale)}"
        if not _answers(other, record):  # also where an older release said that it does
            earlier = [each for each in earlier if each.study != name]
            continue
        known = name in [each.study for each in earlier] or _stated(other) == _stated(record)
        if not known and (seen := _seen(other, folder)):
            earlier.append(EarlierRecord(plan=plan_of(other), looks=seen, study=name, why=_changed(other, record)))
    return looks, earlier


def _seen(record, folder):
    """The looks of a record, and the one that its runs allow by now: a report shows every word that can be said.

    So a study that was interrupted between its last run and the record of its look has been looked at too.
    """
    try:
        rulings = judge(record, runs_of(record, folder))
    except (DataError, SpecError):  # a claim of a user's own that is gone, say
        return record.looks
    return taken(rulings, max((ruling.look for ruling in rulings.values()), default=0), record.looks)


def _stated(record):
    """What a study states before its runs. Its claims are compared by content, not by name; the first arm is the baseline."""
    # A first seed of 0 is not written, so that what was stated before there were others stays the same.
    first, *others = (
        (label, *arm.identities, *([str(arm.first_seed)] if arm.first_seed else [])) for label, arm in record.arms.items()
    )
    return plan_of(record), claimed(record.claims), [first, *sorted(others)]


def claimed(claims):
    """What claims, {name: resolved claim}, say: sorted texts, without their names."""
    return sorted(map(_content, claims.values()))


def _digest(record):
    plan, claims, arms = _stated(record)
    return digest([plan.dump(), claims, arms])


def exploratory(each):
    """Two sentences on an EarlierRecord of a study that is started: why it is exploratory, and how to be confirmatory again."""
    of = f" of {each.study}" if each.study else ""
    why = f"{each.why} changed after a look at {times(each.looks[-1].seeds, 'seed')}{of}"
    return (
        f"exploratory: {why}: a plan that is changed after reading verdicts may be the one that fits them, so each verdict says it",
        "confirmatory again: the plan as it was, without the change; or this plan for runs that nobody has looked at, such as "
        "those of another scale (docs/statistics.md)",
    )


def _content(claim):
    """A resolved claim as text, with the options that its component got since it was recorded."""
    try:
        config = built(claim).config
    except SpecError:
        return repr(claim)
    return repr({"type": claim["type"], **config.dump()})


def _shares(old, new):
    """Whether two records of one study have runs of SHARED arms in common."""
    return len(_identities(old) & _identities(new)) >= SHARED


def _identities(record):
    return {(arm.first_seed, *arm.identities) for arm in record.arms.values()}


def _answers(other, new):
    """Whether a question of a record compares arms all of which another study has runs of: its answer may have been read there.

    A baseline and a control that two studies share answer no question of either.
    """
    known = _identities(other)
    shared = {label for label, arm in new.arms.items() if (arm.first_seed, *arm.identities) in known}
    asked = [question for each in questions(new.claims, new.arms).values() for question in each]
    return any(shared >= {*_compared(question)} for question in asked)


def _compared(question):
    """The arms that a question is about, without the controls that it needs besides."""
    first, *others = question.held or question.arms
    return (first, *others) if question.held or question.subject not in others else (first, question.subject)


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
