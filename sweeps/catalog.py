"""All studies below a folder of runs, with what came of each: what `archbench study list` and `index.html` show.

Only `study.json`, the status in each run's record and the sizes of files are read, so that hundreds of studies take a second
or two. No torch, and no judging: the words of the verdicts are those that the last look wrote down. Only a record that is older
than looks is judged here.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from arch.contracts import UNDECIDED
from arch.errors import DataError, SpecError, reason_of
from experiments.record import content_of, record_file
from sweeps.attempts import PREFIX
from sweeps.claims.equivalent import BASELINE
from sweeps.folders import DIGEST, RETRAINED, TUNE
from sweeps.marks import Marks
from sweeps.record import NAME, StudyRecord
from sweeps.status import is_held

REPORT = "report.html"
SMOKE = "smoke"  # the scale that tests run: no conclusions
# Where a study's own runs lie below its folder: reported ones, those of trials, those trained once more for their weights.
OF_STUDY = tuple(f"{below}*-{'?' * DIGEST}/seed-*" for below in ("", f"{TUNE}/", f"{RETRAINED}/"))
# Kinds of verdicts that a line names; the rest are counted.
WORDS = 3


@dataclass(frozen=True)
class Entry:
    """One study at one scale.

    place: its folder below the runs, `my_study/demo`, by which commands name it. state: `finished`, `running`, `stopped` (runs
    are to do, and nobody does them), `failed`, or `damaged`, where the record cannot be read; why then says why. ended, planned:
    numbers of runs. verdict: the words of its claims, without baselines, the most frequent first: `2 worse, 1 undecided`.
    disk: bytes in its folder. last: when a run began or ended last, ISO 8601; empty without a run. report: whether there is one.
    """

    folder: Path
    place: str
    name: str = ""
    scale: str | None = None
    question: str = ""
    state: str = "damaged"
    why: str = ""
    ended: int = 0
    planned: int = 0
    verdict: str = ""
    disk: int = 0
    last: str = ""
    report: bool = False
    command: str = ""
    marks: Marks = field(default_factory=Marks)

    @property
    def progress(self) -> str:
        """The state, with how many runs have ended where not all have: `stopped 9/15`."""
        return self.state if self.state in ("finished", "damaged") else f"{self.state} {self.ended}/{self.planned}"

    @property
    def when(self) -> str:
        """The local time of the last run, to the minute; empty without a run."""
        return datetime.fromisoformat(self.last).astimezone().strftime("%Y-%m-%d %H:%M") if self.last else ""

    @property
    def note(self) -> str:
        """The latest note; empty without one."""
        return self.marks.notes[-1].text if self.marks.notes else ""

    def dump(self) -> dict[str, Any]:
        """The entry as plain data, for JSON."""
        shown = ("place", "name", "scale", "question", "state", "why", "ended", "planned", "verdict", "disk", "last", "command")
        own = {key: getattr(self, key) for key in shown}
        report = str(self.folder / REPORT) if self.report else None
        return {**own, "folder": str(self.folder), "report": report, **self.marks.dump()}


def folders(runs: Path | str) -> list[Path]:
    """The folders of all studies below RUNS, `RUNS/STUDY/SCALE`."""
    return sorted(path.parent for path in Path(runs).glob(f"*/*/{NAME}"))


def entries(runs: Path | str) -> list[Entry]:
    """The Entry of every study below RUNS."""
    return [entry(folder, runs) for folder in folders(runs)]


def entry(folder: Path, runs: Path | str) -> Entry:
    """The Entry of one study's folder."""
    place = Path(os.path.relpath(folder, runs)).as_posix()
    about = {"disk": size(folder), "report": (folder / REPORT).is_file(), "marks": Marks.read_whole(folder)}
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError) as error:
        return Entry(folder, place, why=reason_of(error, folder / NAME), **about)
    if record is None:
        return Entry(folder, place, why=f"no {NAME}", **about)
    runs_of = [status(folder / path) for path in _runs(record)]
    planned = max(_planned(record), len(runs_of))
    ended = sum(each.word in ("finished", "failed", "pruned") for each in runs_of)
    return Entry(
        folder,
        place,
        name=record.name,
        scale=record.scale,
        question=record.question,
        state=_state([each.word for each in runs_of], planned, folder),
        ended=ended,
        planned=planned,
        verdict=verdict(record, folder, ended == planned),
        last=max((each.time for each in runs_of), default=""),
        command=record.command,
        **about,
    )


def size(path: Path | str) -> int:
    """Bytes of a file, or of all files in a folder, links not followed; what vanishes meanwhile counts nothing."""
    path = Path(path)
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as inside:
            return sum(size(each.path) if each.is_dir(follow_symlinks=False) else _bytes(each) for each in inside)
    except OSError:
        return 0


def _bytes(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class Status:
    """How a run stands. word: as in its record; `running` only if somebody holds its lock; `unreadable`, or `to do` without a
    record. time: when it ended, or else began.
    """

    word: str
    time: str = ""


def status(run: Path) -> Status:
    """The Status of a run's folder. The record is not validated: a list reads thousands."""
    file = record_file(run)
    data = content(file)
    if data is None:
        if file.exists():
            return Status("unreadable")
        return Status("running" if any(map(is_held, run.glob(f"{PREFIX}*"))) else "to do")  # drivers that share a storage
    word = str(data.get("status"))
    if word == "running" and not is_held(run):
        word = "interrupted"
    return Status(word, str(data.get("ended") or data.get("started") or ""))


def content(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        data = content_of(path)
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _runs(record: StudyRecord) -> Iterator[str]:
    """The folders of a study's reported runs and helper runs, each once."""
    arms = (path for arm in record.arms.values() for path in arm.runs.values())
    helpers = (path for each in record.helpers.values() for path in each.values())
    return iter(dict.fromkeys([*arms, *helpers]))


def _planned(record: StudyRecord) -> int:
    """How many runs are planned so far; arms that are the same share theirs."""
    alike = {(arm.identity_of(seed), seed) for label, arm in record.arms.items() for seed in record.seeds_of(label)}
    return len(alike) + sum(map(len, record.helpers.values()))


def run_folders(folder: Path) -> Iterator[Path]:
    """The folders of a study's own runs, with those of attempts."""
    for run in (run for pattern in OF_STUDY for run in folder.glob(pattern)):
        yield run
        yield from run.glob(f"{PREFIX}*")


def _state(words: Sequence[str], planned: int, folder: Path) -> str:
    if "running" in words:
        return "running"
    if planned and sum(word in ("finished", "pruned") for word in words) >= planned:
        return "finished"
    if any(map(is_held, run_folders(folder))):  # a trial, or a run that is trained once more for its weights
        return "running"
    return "failed" if "failed" in words else "stopped"


def verdict(record: StudyRecord, folder: Path, complete: bool) -> str:
    """The words of a study's claims at its last look, counted; empty before the first look.

    complete: whether all its runs have ended; the verdicts of a record that is older than looks are read only then.
    """
    words = record.looks[-1].words if record.looks else _judged(record, folder) if complete else {}
    of_subjects = [word for subjects in words.values() for word in subjects.values() if word and word != BASELINE]
    counts = Counter(of_subjects)
    order = in_order(counts)
    shown = [word if len(of_subjects) == 1 else f"{counts[word]} {word}" for word in order[:WORDS]]
    rest = sum(counts[word] for word in order[WORDS:])
    return ", ".join([*shown, *([f"{rest} others"] if rest else [])])


def in_order(counts: Mapping[str, int]) -> list[str]:
    """Words of verdicts, the most frequent first, and last those that decide nothing."""
    return sorted(counts, key=lambda word: (word == UNDECIDED, -counts[word]))


def _judged(record: StudyRecord, folder: Path) -> dict[str, dict[str, str]]:
    """{claim: {subject: word}} of a record without looks."""
    from sweeps import judge
    from sweeps.outcomes import runs_of

    try:
        rulings = judge.judge(record, runs_of(record, folder))
    except (DataError, SpecError, OSError, ValueError):  # of another release, or with a claim of one's own that is not here
        return {}
    return {name: {subject: each.word for subject, each in ruling.verdicts.items()} for name, ruling in rulings.items()}


# How a list may be sorted: {word: (what of an Entry, whether the largest comes first)}.
SORTS = {
    "last": (lambda each: each.last, True),
    "name": (lambda each: each.place.casefold(), False),
    "disk": (lambda each: each.disk, True),
    "state": (lambda each: each.state, False),
    "verdict": (lambda each: each.verdict or "~", False),
}


def chosen(every: Iterable[Entry], words: Sequence[str] = (), states: Sequence[str] = (), sort: str = "last") -> list[Entry]:
    """The entries in which every word occurs (name, scale, question, state, verdict, notes), in one of the states, sorted."""

    def text(each: Entry) -> str:
        parts = [each.place, each.name, each.scale or "", each.question, each.progress, each.verdict]
        return " ".join([*parts, *(note.text for note in each.marks.notes)]).casefold()

    kept = [each for each in every if (not states or each.state in states) and all(word.casefold() in text(each) for word in words)]
    key, largest_first = SORTS[sort]
    return sorted(sorted(kept, key=lambda each: each.place), key=key, reverse=largest_first)
