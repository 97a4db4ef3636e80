"""What may be removed: a study without the runs that others use, and, for `gc`, what nothing needs any more.

Nothing is removed here before `remove`; everything else only looks. A run that is worked on now is never among it, nor what
lies in the folder of a study whose record cannot be read: nobody knows what that study needs.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch.errors import DataError
from arch.words import listed, times
from experiments.data.cache import root as cache_root
from experiments.record import SINGLE, record_file
from sweeps import catalog
from sweeps.attempts import ENDS, PREFIX, UNFINISHED
from sweeps.folders import RETRAINED
from sweeps.record import NAME, StudyRecord
from sweeps.status import is_held

DAY = 24 * 60 * 60
# What of the cache is kept file by file; every other folder there is one thing: a tokenized corpus.
BY_ENTRY = {
    "native": "kernels",
    "inductor": "compiled programs",
    "costs": "costs",
    "probes": "probes",
    "teacher": "targets",
    "pairs": "digests of pairs",
}


@dataclass(frozen=True)
class Waste:
    """A kind of what may go. what: in words, a plural. paths: files and folders. bytes: of all of them."""

    what: str
    paths: tuple[Path, ...]
    bytes: int


def waste(what: str, paths: Iterable[Path]) -> Waste:
    """The Waste of some files and folders."""
    paths = tuple(paths)
    return Waste(what, paths, sum(map(catalog.size, paths)))


def users(runs: Path | str) -> tuple[dict[Path, set[Path]], list[Path]]:
    """({run folder: the folders of the studies, or of the runs, that refer to it}, folders of studies that cannot be read).

    All paths are resolved. A study refers to its reported runs, helper runs and trials; a run to those that its objective used
    and to the checkpoints that its spec names.
    """
    found: dict[Path, set[Path]] = {}
    unreadable = []
    for folder in catalog.folders(runs):
        record = StudyRecord.read_whole(folder)
        if record is None:
            unreadable.append(folder.resolve())
            continue
        places = [place for arm in record.arms.values() for place in arm.runs.values()]
        places += [place for helper in record.helpers.values() for place in helper.values()]
        places += [trial.run for trial in record.trials if trial.run]
        for place in places:
            found.setdefault((folder / place).resolve(), set()).add(folder.resolve())
    for path in _records(runs):
        for other in _needed(path):
            found.setdefault(other, set()).add(path.parent.resolve())
    return found, unreadable


def _records(runs: Path | str) -> Iterator[Path]:
    """The records of all runs below RUNS, single ones too."""
    for run in (*_of_studies(runs), *_single(runs)):
        if (record := record_file(run)).is_file():
            yield record


def _of_studies(runs: Path | str) -> list[Path]:
    """The folders of the runs of all studies below RUNS, also of those whose record is gone."""
    every = (run for pattern in catalog.OF_STUDY for run in Path(runs).glob(f"*/*/{pattern}"))
    return sorted(run for run in every if run.relative_to(runs).parts[0] != SINGLE)


def _single(runs: Path | str) -> list[Path]:
    """Runs that `archbench run` made: somebody wanted them, though no study refers to them."""
    return sorted(Path(runs).glob(f"{SINGLE}/*/run-*/seed-*"))


def _needed(path: Path) -> Iterator[Path]:
    """The folders that a run's record names: of its objective's runs, and of the checkpoints that it starts from."""
    data = catalog.content(path) or {}
    for other in (data.get("runs") or {}).values():
        if isinstance(other, dict) and other.get("folder"):
            yield (path.parent / str(other["folder"])).resolve()
    yield from _named((data.get("spec") or {}).get("init_from"))


def _named(start: Any) -> Iterator[Path]:
    """The folders in an `init_from`, as seen from the working folder."""
    if isinstance(start, list):
        for each in start:
            yield from _named(each)
    elif isinstance(start, dict):
        for each in (start.get("run"), start.get("of"), start.get("start")):  # a run, or several that are merged
            yield from _named(each)
    elif isinstance(start, str) and Path(start).expanduser().is_dir():
        yield Path(start).expanduser().resolve()


@dataclass(frozen=True)
class Removal:
    """What removing studies takes. kept: {run folder that stays: the others that refer to it}."""

    waste: Waste
    kept: dict[Path, set[Path]]

    @property
    def sentences(self) -> list[str]:
        """Which runs stay, and for whom."""
        by_user: dict[Path, int] = {}
        for others in self.kept.values():
            for other in others:
                by_user[other] = by_user.get(other, 0) + 1
        return [f"kept: {times(count, 'run')} that {_shown(other)} uses" for other, count in sorted(by_user.items())]


def of_studies(studies: Sequence[Path], runs: Path | str) -> Removal:
    """The Removal of some studies' folders. Raises DataError while one of them is worked on, and for one that is not below RUNS."""
    resolved = [folder.resolve() for folder in studies]
    for folder, named in zip(resolved, studies, strict=True):
        if not folder.is_relative_to(Path(runs).resolve()):
            raise DataError(f"{named}: it is not below {runs}, so nobody knows who uses its runs; give its --runs", key=None)
        if any(is_held(run) for run in catalog.run_folders(folder)):
            raise DataError(f"{named}: it runs now; stop it first", key=None)
    refer, unreadable = users(runs)
    kept, paths = {}, []
    for folder in resolved:
        inside = {run: others - {folder} for run, others in refer.items() if run.is_relative_to(folder)}
        outside = lambda other: not any(other.is_relative_to(each) for each in resolved)  # noqa: E731
        used = {run: set(filter(outside, others)) for run, others in inside.items()}
        used = {run: others for run, others in used.items() if others}
        kept |= used
        paths += list(_all_but(folder, set(used)))
    strangers = [folder for folder in unreadable if folder not in resolved]
    if strangers:
        named_ = listed(_shown(folder / NAME) for folder in strangers)
        raise DataError(f"{named_}: cannot be read, so nobody knows which runs it uses; move it away first", key=None)
    return Removal(waste("files of the study", paths), kept)


def _all_but(folder: Path, kept: set[Path]) -> Iterator[Path]:
    """The largest parts of a folder without those in `kept`."""
    if folder in kept:
        return
    if not any(each.is_relative_to(folder) for each in kept):
        yield folder
        return
    for each in sorted(folder.iterdir()):
        yield from _all_but(each, kept)


def collectable(runs: Path | str, days: float, now: float | None = None) -> tuple[list[Waste], list[str]]:
    """(what `gc` may free, sentences on what it leaves alone). days: how long a part of the cache was not used."""
    refer, unreadable = users(runs)
    said = [f"{_shown(folder / NAME)} cannot be read: nothing in its folder is touched" for folder in unreadable]
    orphans, spent = [], []
    every = _of_studies(runs)
    busy = {_study_of(run, runs) for run in every if any(map(is_held, (run, *run.glob(f"{PREFIX}*"))))}
    for run in every:
        place = run.resolve()
        if _study_of(run, runs) in busy or any(place.is_relative_to(folder) for folder in unreadable):
            continue
        if place not in refer:
            orphans += [] if _will_be_read(run, runs) else [run]
        elif _has_ended(run):
            spent += list(_spent(run))
    for run in _single(runs):
        if not is_held(run) and _has_ended(run):
            spent += list(_spent(run))
    said += [f"{_shown(folder)} runs now and is left alone, and so is the cache" for folder in sorted(busy)]
    found = [waste("runs that no study refers to", orphans), waste("checkpoints of runs that have ended", spent)]
    # What a run needs now may be as old as one likes.
    found += [] if busy else _caches(days, time.time() if now is None else now)
    return [each for each in found if each.paths], said


def _will_be_read(run: Path, runs: Path | str) -> bool:
    """Whether a run was trained once more for its weights, for a study that has not done all its runs."""
    return run.relative_to(runs).parts[2] == RETRAINED and catalog.entry(_study_of(run, runs), runs).state != "finished"


def _study_of(run: Path, runs: Path | str) -> Path:
    """The folder of the study in which a run lies, `RUNS/STUDY/SCALE`."""
    return Path(runs, *run.relative_to(runs).parts[:2])


def _has_ended(run: Path) -> bool:
    return (catalog.content(record_file(run)) or {}).get("status") in ENDS


def _spent(run: Path) -> Iterator[Path]:
    """What a run that has ended is not resumed from any more, and attempts at it."""
    for path in sorted(run.iterdir()):
        if path.name.startswith((*UNFINISHED, PREFIX)):
            yield path


def _caches(days: float, now: float) -> list[Waste]:
    """What of the cache was not used for so many days."""
    root, by_kind = cache_root(), dict[str, list[Path]]()
    if not root.is_dir():
        return []
    for path in sorted(root.iterdir()):
        kind = BY_ENTRY.get(path.name)
        for each in sorted(path.iterdir()) if kind and path.is_dir() else [path]:
            if now - _used(each) >= days * DAY:
                by_kind.setdefault(kind or "tokens", []).append(each)
    unused = f"that nobody used for {days:g} days" if days else "that can be made again"
    return [waste(f"parts of the cache {unused}: {kind}", paths) for kind, paths in by_kind.items()]


def _used(path: Path) -> float:
    """When a file, or any file of a folder, was last read or written, in seconds; a file system may keep the day alone."""
    last = 0.0
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        with suppress(OSError):
            about = each.stat()
            last = max(last, about.st_mtime, 0.0 if each.is_dir() else about.st_atime)
    return last


def remove(parts: Iterable[Waste], runs: Path | str) -> list[str]:
    """Remove files and folders, and the folders above them that are empty then, but for RUNS and the cache themselves.

    Returns sentences on what could not be removed.
    """
    problems, roots = [], (Path(runs).resolve(), cache_root().resolve())
    for path in (path for part in parts for path in part.paths):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            above = path.resolve().parent
            with suppress(OSError):  # not empty
                while above not in roots:
                    above.rmdir()
                    above = above.parent
        except OSError as error:
            problems.append(f"{path}: not removed ({error.strerror or error})")
    return problems


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
