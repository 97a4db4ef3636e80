"""The attempts of a run: each writes in a folder of its own, and one of them becomes the run.

    RUN/attempt-N      what attempt N, trial N of the queue, has written so far
    RUN/               the run: the files of the attempt whose trial is complete, moved there, the record last

An attempt that was given up may wake and write at any time: only its own folder changes, and nobody moves that one. No torch
here, but for what the caller hands in.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from experiments.record import NAME, RunRecord

PREFIX = "attempt-"
CHECKPOINT, MARKER = "checkpoint.ckpt", "checkpoint.identity"
# A checkpoint that several processes wrote: a folder, named by a file (`experiments.sharded`).
POINTER, SHARDS = "checkpoint.json", "ckpt-"
# What belongs to the process that writes, or to an unfinished run only.
OWN = (".lock", CHECKPOINT, MARKER, POINTER)
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
    step_of: Callable[[Path], int | None],
    is_whole: Callable[[Path], bool],
) -> str:
    """Put into the folder of a new attempt what the best earlier one left: its result, or its newest checkpoint.

    step_of: the step of a checkpoint, None for one that cannot be read. is_whole: whether the weights of a finished run can
    be opened. Returns what was taken, in words; empty if there was nothing. Raises OSError.
    """
    earlier = others(home, attempt)
    for each in earlier:
        # Finished, but its driver died before it could say so.
        if has_result(each, identity, seed) and is_whole(each):
            _take(each, attempt, [file for file in _files(each, attempt) if file.name != NAME])
            shutil.copyfile(each / NAME, attempt / f".{NAME}.taken")
            os.replace(attempt / f".{NAME}.taken", attempt / NAME)
            return f"the result of {each.name}"
    steps = {each: _step(each, step_of) for each in earlier if _is_of(each, f"{identity} {seed}")}
    steps = {each: step for each, step in steps.items() if step is not None}
    if not steps:
        return ""
    best = max(steps, key=lambda each: steps[each])
    names = [CHECKPOINT, POINTER, "history.parquet", *(path.name for path in best.glob("events.out.*"))]
    if shards := _shards(best):
        names += [f"{shards.name}/{path.name}" for path in shards.iterdir()]
    names.append(MARKER)  # last: it says whose checkpoint this is
    _take(best, attempt, [Path(name) for name in names if (best / name).is_file()])
    return f"the checkpoint of {best.name} at step {steps[best]}"


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
    for name in (CHECKPOINT, MARKER, POINTER):
        (home / name).unlink(missing_ok=True)
    for each in home.glob(f"{SHARDS}*"):
        shutil.rmtree(each, ignore_errors=True)
    clear(home)


def record_failed(attempt: Path, home: Path) -> None:
    """Show in the run's folder what a failed attempt says, unless there is a record. The attempt stays. Raises OSError."""
    if (home / NAME).exists():
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


def _shards(place):
    """The folder of the checkpoint that several processes wrote, or None."""
    try:
        shards = place / json.loads((place / POINTER).read_text())["folder"]
    except (OSError, ValueError, KeyError):
        return None
    return shards if shards.is_dir() else None


def _step(place, step_of):
    shards = _shards(place)
    return step_of(place / CHECKPOINT) if shards is None else int(shards.name.removeprefix(SHARDS))


def _is_of(place, marker):
    """Whether the checkpoint in a folder is one of this run."""
    try:
        return (place / MARKER).read_text() == marker
    except OSError:
        return False


def _files(place: Path, but: Path | None = None) -> Iterator[Path]:
    """The files of a run's folder, as paths below it, without its attempts and what only its writer uses."""
    for path in sorted(place.rglob("*")):
        below = path.relative_to(place)
        inside = below.parts[0].startswith((PREFIX, SHARDS, f".{SHARDS}"))
        if path.is_file() and not inside and below.name not in OWN and not below.name.startswith("."):
            yield below


def _take(source, target, names):
    """Copy files, but link a checkpoint: it is only ever replaced as a whole, and may be large."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # that attempt was just cleared away
            if name.suffix in (".ckpt", ".safetensors", ".distcp"):
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
