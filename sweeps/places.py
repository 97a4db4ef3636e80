"""Which study, run or checkpoint a word of a command means.

All commands take the same words: a folder; its place below the folder of runs, as `study list` prints it or as it was typed;
a place above it, where it is the only one there; the file or the shipped name of a study or an experiment.
"""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from arch import document
from arch.errors import DataError, SpecError, nearest, reason_of
from arch.words import listed
from experiments.record import RECORDS, SINGLE
from sweeps import kinds, origin
from sweeps.folders import safe_name, study_name
from sweeps.record import NAME, Origin, StudyRecord
from sweeps.scale import default_scale

RUNS = Path("runs")


def here(reference: Path | str, runs: Path | str = RUNS) -> Path | None:
    """The folder that a reference names by itself or below RUNS; None where there is none.

    Raises DataError where several studies, or several runs, lie in it.
    """
    path = Path(reference)
    if path.name in (NAME, *RECORDS) and path.is_file():
        path = path.parent
    typed = [each for each in path.parts if each != path.anchor]
    below = [] if path.is_absolute() else [Path(runs, *typed), Path(runs, *map(safe_name, typed))]
    candidates = [path, *below]
    for each in candidates:
        if kinds.inside(each):
            return each
    for each in candidates:
        for what, names in (("studies", (NAME,)), ("runs", RECORDS)):
            for above in ("*", "*/*"):
                if within := sorted({file.parent for name in names for file in each.glob(f"{above}/{name}")}):
                    return _only(within, str(reference), what, runs)
    return None


def _only(folders: list[Path], reference: str, what: str, runs: Path | str) -> Path:
    if len(folders) > 1:
        shown = listed((_place(each, runs) for each in folders), "or")
        what = "scales" if what == "studies" and len({each.parent for each in folders}) == 1 else what
        raise DataError(f"{reference}: it has {len(folders)} {what}; expected one of {shown}", key=None)
    return folders[0]


def _place(folder: Path, runs: Path | str) -> str:
    place = Path(os.path.relpath(folder, runs))
    return str(folder) if place.parts[:1] == ("..",) else place.as_posix()


def find(reference: Path | str, runs: Path | str = RUNS) -> Path:
    """The folder of the study, run or checkpoint that a reference means. Raises DataError or SpecError."""
    if (folder := here(reference, runs)) or Path(reference).is_dir():
        return folder or Path(reference)
    reference = str(reference)
    try:
        kind = kinds.of(reference, "study")
    except SpecError:
        if reference.endswith((".yaml", ".yml")) or os.path.exists(reference):
            raise
        known = [_place(each, runs) for each in _studies(runs)]
        path = Path(reference)
        is_path = path.is_absolute() or path.parts[:1] == Path(runs).parts[:1]
        missing = f"{reference}: no such folder" if is_path else f"no study {reference!r} in {runs}"
        raise DataError(f"{missing}{nearest(reference, known)}", key=None) from None
    if kind == "study":
        return _begun(reference, runs)
    if kind == "experiment":
        return _single(reference, runs)
    raise kinds.meant(reference, kind)


def begun(reference: str, runs: Path | str = RUNS) -> Path | None:
    """The folder of what has begun, where a reference means that and no spec."""
    if kinds.inside(reference):
        return Path(reference)
    try:
        document.find(reference, "sweeps")
    except SpecError:
        return here(reference, runs)
    return None


def study(reference: Path | str, runs: Path | str = RUNS) -> Path:
    """The folder of the study that a reference means. Raises DataError or SpecError."""
    folder = find(reference, runs)
    if kinds.inside(folder) != "study":
        held = kinds.inside(folder)
        what = f"a {held}" if held else f"a folder without {NAME}"
        raise DataError(f"{folder}: it is {what}; expected the folder of a study", key=None)
    return folder


def _studies(runs: Path | str) -> Iterator[Path]:
    return (path.parent for path in sorted(Path(runs).glob(f"*/*/{NAME}")))


def _records(runs: Path | str) -> list[tuple[Path, StudyRecord | None]]:
    """[(folder, its record, or None where that cannot be read)] of all studies."""
    return [(folder, StudyRecord.read_whole(folder)) for folder in _studies(runs)]


def _begun(reference: str, runs: Path | str) -> Path:
    """The folder of a study's spec: at its default scale, or at the only one that has begun."""
    root = document.load(reference, "sweeps")
    own, name = origin.of(reference, root), study_name(reference)
    every = _records(runs)
    plain = [(folder, record) for folder, record in every if folder.parent.name == safe_name(name)]
    begun = {folder: record for folder, record in plain if record is None or origin.is_of(folder, record, name, own)}
    for folder, record in begun.items():
        if record is not None and record.scale == default_scale(root):
            return folder
    if begun:
        return _only([*begun], reference, "studies", runs)
    more = f"; {others}" if (others := _with_other_values(every, own, runs)) else ""
    raise DataError(
        f"{reference}: this study has not begun in {runs}: archbench study run {shlex.quote(reference)}{more}", key=None
    )


def with_other_values(own: Origin, runs: Path | str = RUNS) -> str:
    """Which studies of a file, or of a shipped study, have begun: under other names and at every scale. Empty if none has."""
    return _with_other_values(_records(runs), own, runs)


def _with_other_values(every, own, runs):
    begun = [folder for folder, record in every if record is not None and origin.is_of(folder, record, "", own)]
    return f"with other values: {listed(_place(each, runs) for each in begun)}" if begun else ""


def _single(reference: str, runs: Path | str) -> Path:
    """The folder of the run that `archbench run` made of an experiment's spec."""
    above = Path(runs, SINGLE, Path(reference).stem)
    made = sorted({path.parent for name in RECORDS for path in above.glob(f"*/*/{name}")})
    if not made:
        run = f"archbench run {shlex.quote(reference)}"
        raise DataError(f"{reference}: this experiment has no run in {Path(runs, SINGLE)}: {run}", key=None)
    return _only(made, reference, "runs", runs)


@dataclass(frozen=True)
class Written:
    """Where the study in a folder was written, and what the command that began it selected: as if it were typed again."""

    folder: Path
    reference: str
    scale: str | None = None
    changes: list[str] = field(default_factory=list)
    seeds: int | None = None
    name: str | None = None


def written(reference: str, runs: Path | str = RUNS) -> Written | None:
    """The Written of a reference to a study that has begun; None where it names a spec, or nothing.

    Raises DataError where the record does not say which study it is of, SpecError where the study's file is gone.
    """
    folder = begun(reference, runs)
    if folder is None:
        return None
    if kinds.inside(folder) != "study":
        raise kinds.meant(reference, kinds.inside(folder) or "run")
    record = read(folder)
    options = _options(record.command)
    return Written(folder, _source(folder, record.origin, record.name), record.scale, *options)


def read(folder: Path) -> StudyRecord:
    """The record of the study in a folder. Raises DataError."""
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: its record cannot be read: {reason_of(error, folder / NAME)}", key=None) from None
    if record is None:
        raise DataError(f"{folder}: no {NAME} in it", key=None)
    return record


def _source(folder: Path, source: Origin | None, name: str) -> str:
    if source is None or (source.file is None and source.shipped is None):
        if name in document.shipped("sweeps"):
            return name
        raise DataError(f"{folder}: its record does not say in which file it was written; give that file", key=None)
    if source.shipped:
        return source.shipped
    file = Path(os.path.normpath(folder.resolve() / str(source.file)))
    if not file.is_file():
        raise SpecError(f"{folder}: it was written in {file}, which is not there; give the file itself", file=None)
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _options(command: str) -> tuple[list[str], int | None, str | None]:
    """(--set, --seeds, --name) of a recorded command."""
    changes: list[str] = []
    values: dict[str, str] = {}
    words = shlex.split(command)
    for option, value in pairwise(words):
        if option == "--set":
            changes.append(value)
        elif option in ("--seeds", "--name"):
            values[option] = value
    return changes, int(values["--seeds"]) if "--seeds" in values else None, values.get("--name")
