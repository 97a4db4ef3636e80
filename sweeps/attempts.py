"""The attempts of a run: each writes in a folder of its own, and one of them becomes the run.

    RUN/attempt-N      what attempt N, trial N of the queue, has written so far
    RUN/               the run: the files of the attempt whose trial is complete, moved there, the record last

An attempt that was given up may wake and write at any time: only its own folder changes, and nobody moves that one. No torch
here, but for what the caller hands in.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from experiments.record import NAME, RECORDS, RunRecord, packed_file, record_file

PREFIX = "attempt-"
MARKER = "checkpoint.identity"
# What an unfinished run is resumed from; all such files and folders begin so.
UNFINISHED = ("checkpoint", "ckpt-")
# How a run ends that has a result.
ENDS = ("finished", "pruned")


def folder(home: Path, number: int) -> Path:
    """The folder of attempt `number` of the run in `home`."""
    return home / f"{PREFIX}{number}"


def others(home: Path, but: Path | None = None) -> list[Path]:
    """The run's own folder (a driver without a storage writes there) and those of its attempts, the last attempt first."""
    found = [each for each in home.glob(f"{PREFIX}*") if each != but and each.is_dir()]
    return [*sorted(found, key=_number, reverse=True), home]


def begin(
    attempt: Path,
    home: Path,
    identity: str,
    seed: int,
    newest: Callable[[Path], tuple[int, list[str]] | None],
    is_whole: Callable[[Path], bool],
) -> str:
    """Put into the folder of a new attempt what the best earlier one left: its result, or its newest checkpoint.

    newest: (step, files and folders) of the checkpoint in a folder, None if there is none that can be read. is_whole: whether
    the weights of a finished run can be opened. Returns what was taken, in words; empty if there was nothing. Raises OSError.
    """
    earlier = others(home, attempt)
    for each in earlier:
        # Finished, but its driver died before it could say so.
        if has_result(each, identity, seed) and is_whole(each):
            _take(each, attempt, [file for file in _files(each) if file.name not in RECORDS])
            RunRecord.read(each).write(attempt)
            return f"the result of {each.name}"
    found = {each: newest(each) for each in earlier if _is_of(each, f"{identity} {seed}")}
    steps = {each: checkpoint for each, checkpoint in found.items() if checkpoint is not None}
    if not steps:
        return ""
    best = max(steps, key=lambda each: steps[each][0])
    step, names = steps[best]
    names = [MARKER, "history.parquet", *(path.name for path in best.glob("events.out.*")), *names]
    _take(best, attempt, [Path(name) for name in names])
    return f"the checkpoint of {best.name} at step {step}"


def has_result(place: Path, identity: str, seed: int) -> bool:
    """Whether a folder holds the readable record of this run, with a result."""
    record = RunRecord.read_whole(place)
    return record is not None and record.status in ENDS and (record.identity, record.seed) == (identity, seed)


def promote(attempt: Path, home: Path) -> None:
    """Make a complete attempt the run. Anybody may do it, also several at once or after one that was killed. Raises OSError."""
    for file in _files(attempt):
        if file.name != NAME:
            _move(attempt / file, home / file)
    _move(attempt / NAME, home / NAME)
    packed_file(home / NAME).unlink(missing_ok=True)  # of a kept copy that went on
    for path in home.iterdir():
        if path.name.startswith(UNFINISHED):  # of a start without a storage
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    clear(home)


def record_failed(attempt: Path, home: Path) -> None:
    """Show in the run's folder what a failed attempt says, unless there is a record. The attempt stays. Raises OSError."""
    if record_file(home).exists():
        return
    for file in [*(file for file in _files(attempt) if file.name != NAME), Path(NAME)]:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, FileNotFoundError):
            _linked(attempt / file, home / file)


def clear(home: Path) -> None:
    """Remove the attempts of a run that has its result."""
    for each in home.glob(f"{PREFIX}*"):
        shutil.rmtree(each, ignore_errors=True)


def _number(place):
    digits = place.name.removeprefix(PREFIX)
    return int(digits) if digits.isdigit() else -1


def _is_of(place, marker):
    """Whether the checkpoint in a folder is one of this run."""
    try:
        return (place / MARKER).read_text() == marker
    except OSError:
        return False


def _files(place: Path) -> Iterator[Path]:
    """The files of a run's folder, as paths below it, without its attempts and what only its writer uses."""
    for path in sorted(place.rglob("*")):
        below = path.relative_to(place)
        hidden = any(part.startswith(".") for part in below.parts)
        if path.is_file() and not below.parts[0].startswith((PREFIX, *UNFINISHED)) and not hidden:
            yield below


def _take(source, target, names):
    """Copy files and folders, but link weights and checkpoints: they are only ever replaced as a whole, and may be large."""
    for name in names:
        if (source / name).is_dir():
            _take(source, target, [path.relative_to(source) for path in (source / name).rglob("*") if path.is_file()])
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # it has none, or that attempt was just cleared away
            if name.suffix == ".safetensors" or (name.parts[0].startswith(UNFINISHED) and name != Path(MARKER)):
                _linked(source / name, target / name)
            else:
                shutil.copyfile(source / name, target / name)


def _linked(source, target):
    """A second name for a file, or a copy where the file system has no links. Raises FileExistsError, FileNotFoundError."""
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, scratch)
        if target.exists():
            scratch.unlink()
            raise FileExistsError(str(target)) from None
        os.replace(scratch, target)


def _move(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # somebody else has moved it
        os.replace(source, target)
