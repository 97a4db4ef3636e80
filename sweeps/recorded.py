"""A study with nothing left to do, from its record and those of its runs alone: the trials of its search are not needed."""

from __future__ import annotations

from experiments import evaluations
from experiments.record import RunRecord, evaluation_file
from sweeps import looking
from sweeps.job import Job, Outcome
from sweeps.record import StudyRecord
from sweeps.study import StudyPlan


def outcomes(study: StudyPlan) -> tuple[StudyRecord, list[Outcome]] | None:
    """(its record, how each reported run ended) where all of them are finished and no look follows; None otherwise.

    None also where the study was edited since, or something else is to be measured.
    """
    record = StudyRecord.read_whole(study.folder)
    if record is None or record.spec != study.spec.dump() or {*record.arms} != {each.arm.label for each in study.arms}:
        return None
    if study.written and record.origin and study.written.content != record.origin.content:
        return None
    counts = {label: len(arm.runs) for label, arm in record.arms.items()}
    if not all(counts.values()) or looking.look(record, study.folder, counts)[1] is not None:
        return None
    found = []
    for each in study.arms:
        arm, plan = record.arms[each.arm.label], each.plans[0]
        wanted = evaluations.files(plan.spec)
        for seed, run in arm.runs.items():
            folder = study.folder / run
            ended = RunRecord.read_whole(folder)
            if ended is None or (ended.status, ended.identity) != ("finished", arm.identity_of(int(seed))):
                return None
            if wanted != arm.evaluations or not all(evaluation_file(folder, file).is_file() for file in wanted.values()):
                return None
            found.append(Outcome(Job(each.arm.label, int(seed), plan, folder), "finished", ended, reused=True))
    return record, found
