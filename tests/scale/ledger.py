"""What happened in a chaos test: what the ledger, the trials and the folders of runs say, and what must hold."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import dummy

from experiments.record import RunRecord


@dataclass
class Findings:
    """What was found. faults: sentences on what must not be. overlaps: executions of one run at once, of which `fenced` are by
    attempts that lost their lease. again: steps that were done more than once. unfinished: {run: its trials, with their state}.
    """

    jobs: int = 0
    done: int = 0
    lost: int = 0
    twice: int = 0
    overlaps: int = 0
    fenced: int = 0
    again: int = 0
    attempts: int = 0
    unfinished: dict = field(default_factory=dict)
    trials: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)


def lines(path):
    """The ledger's lines; the last one may be cut short by a kill."""
    found = []
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def check(jobs, ledger, rows, folder, spoiled=(), steps_of=None):
    """The Findings on `jobs` of a study in `folder`. rows: of its queue; None for an engine without one.

    spoiled: runs whose final record was destroyed on purpose, so that they may be done again.
    """
    found = Findings(jobs=len(jobs))
    by_run = defaultdict(list)
    for line in lines(ledger):
        by_run[line["run"]].append(line)
    for job in jobs:
        run = f"{job.folder.parent.name}/{job.folder.name}"
        _run(job, run, by_run[run], found)
        if rows is not None and not _is_finished(job):
            found.unfinished[run] = [f"{row.number} {row.state}" for row in rows if row.run == run]
        if rows is not None:
            _trials(job, run, rows, by_run[run], found, run in spoiled)
    if rows is not None:
        found.trials = dict(Counter(row.state if row.state != "FAIL" else f"FAIL {row.why}" for row in rows))
        left = [row.number for row in rows if row.is_live]
        if left:
            found.faults.append(f"trials {left} are still waiting or running")
        for path in Path(folder).rglob("attempt-*"):
            if path.is_dir() and any(path.iterdir()):
                found.faults.append(f"{path.relative_to(folder)} was not cleared away")
    early = [line for lines in by_run.values() for line in lines if line["event"] == "early"]
    early = [line["run"] for line in early if line["need"] not in spoiled]
    if early:
        found.faults.append(f"began before what they need was finished: {early}")
    return found


def _is_finished(job):
    record = RunRecord.read_whole(job.folder)
    return record is not None and (record.status, record.identity, record.seed) == ("finished", job.plan.identity, job.seed)


def _run(job, run, lines, found):
    record = RunRecord.read_whole(job.folder)
    if not _is_finished(job):
        found.lost += 1
        found.faults.append(f"{run}: not finished ({record and record.status})")
        return
    found.done += 1
    steps = job.plan.spec.train.steps
    if (job.folder / dummy.WEIGHTS).read_text() != dummy.expected(job.plan.identity, job.seed, steps):
        found.faults.append(f"{run}: its result is not that of its steps")
    done = Counter(line["step"] for line in lines if line["event"] == "step")
    missing = [step for step in range(1, steps + 1) if step not in done]
    # A kill between a step's checkpoint and its line leaves none: at most one a kill, which the chain above covers.
    found.again += sum(number - 1 for number in done.values())
    found.attempts += sum(line["event"] == "begin" for line in lines)
    if len(missing) > sum(line["event"] == "begin" for line in lines):
        found.faults.append(f"{run}: steps {missing} were never done")
    writers = defaultdict(set)
    for line in lines:
        writers[line["attempt"]].add(line["pid"])
    spans = _spans(lines)
    winner = record.notes[0] if record.notes else job.folder.name
    for one, (begin, end, first) in spans.items():
        for other, (from_, to, second) in spans.items():
            if one < other and begin < to and from_ < end:
                found.overlaps += 1
                found.fenced += first != second
                if first == second:
                    found.faults.append(f"{run}: two processes wrote {first} at once")
    if len(writers[winner]) > 1 and winner.startswith("attempt-"):
        found.faults.append(f"{run}: {len(writers[winner])} processes wrote the attempt that won")
    ends = sum(line["event"] == "end" for line in lines)
    if not winner.startswith("attempt-") and ends > 1:
        found.twice += 1
        found.faults.append(f"{run}: done {ends} times")


def _spans(lines):
    """{(attempt, process): (first time, last time, attempt)} of executions."""
    spans = {}
    for line in lines:
        key = line["attempt"], line["pid"]
        begin, end, _ = spans.get(key, (line["t"], line["t"], ""))
        spans[key] = min(begin, line["t"]), max(end, line["t"]), line["attempt"]
    return spans


def _trials(job, run, rows, lines, found, may_repeat):
    complete = [row for row in rows if row.run == run and row.state == "COMPLETE"]
    if len(complete) != 1 and not (complete and may_repeat):
        found.twice += len(complete) > 1
        found.faults.append(f"{run}: {len(complete)} complete trials")
    record = RunRecord.read_whole(job.folder)
    if not complete or record is None or not record.notes:
        return
    # An attempt may take the result of an earlier one that finished, but whose driver died before it said so.
    taken = {line["attempt"] for line in lines if line["event"] == "taken"}
    names = {Path(row.attempt).name for row in complete}
    if record.notes[0] not in names and not names & taken:
        found.faults.append(f"{run}: its record is of {record.notes[0]}, and complete is {sorted(names)}")
