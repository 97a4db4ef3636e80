"""Whose record lies in a study's folder. Two studies may have one folder; the second then never replaces the first's record."""

import os
from pathlib import Path

from arch import document
from arch.errors import SpecError, reason_of
from arch.spec import digest
from sweeps.record import NAME, Origin, StudyRecord


def of(reference, root):
    """The Origin of a study: of its file, or of the shipped study of this name. root: its document."""
    content = digest(root.plain())
    if reference.endswith((".yaml", ".yml")):
        return Origin(file=str(document.find(reference, "sweeps").resolve()), content=content)
    return Origin(shipped=reference.removeprefix("sweeps/"), content=content)


def seen_from(folder, origin):
    """The Origin as a record in `folder` holds it: its file relative to the folder, so that both may move together."""
    if origin is None or origin.file is None:
        return origin
    return origin.model_copy(update={"file": os.path.relpath(origin.file, Path(folder).resolve())})


def check(folder, name, scale, origin=None):
    """Raises SpecError if `folder` holds the record of another study than `name`, of another scale, or an unreadable one.

    A study is the same one if its file is the same, however edited, or its content is, wherever the file was moved. Where
    an origin is not known (older records, studies made in Python), the name decides.
    """
    try:
        record = StudyRecord.read(folder)
    except (OSError, ValueError) as error:  # written by another release, say
        file = str(Path(folder) / NAME)
        reason = f"cannot be read as a study's record ({reason_of(error, file)}); move it away, or give another --runs"
        raise SpecError(reason, file=file) from None
    if record is None or (record.scale == scale and is_of(folder, record, name, origin)):
        return
    asked = f"{name} at scale {scale}" if scale else name
    raise SpecError(
        f"{folder} holds the record of another study, {_whose(folder, record)}, which {asked} would replace: "
        "rename one of the two, or give another folder with --runs",
        file=origin and origin.file and _shown(origin.file),
        line=1 if origin and origin.file else None,
    )


def is_edited(folder, origin, baseline=None):
    """Whether the study was written otherwise when the record in `folder` was made. Where that is not known, it was not.

    baseline: the first arm, which the content does not say: a mapping is the same in any order.
    """
    record = StudyRecord.read(folder)
    if record is None or record.origin is None:
        return False
    return record.origin.content != origin.content or baseline not in (None, next(iter(record.arms)))


def is_of(folder, record, name, origin):
    """Whether the record in `folder` is of the study of this name and origin, however edited."""
    if origin is None or record.origin is None:
        return record.name == name
    if origin.content == record.origin.content:
        return True
    file = _file(folder, record.origin)
    if origin.file and file and os.path.exists(origin.file) and os.path.exists(file):
        return os.path.samefile(origin.file, file)  # on a file system that ignores case, two spellings are one file
    return (origin.shipped, origin.file) == (record.origin.shipped, file)


def _file(folder, origin):
    """The path of a record's origin, or None."""
    return origin.file and os.path.normpath(Path(folder).resolve() / origin.file)


def _whose(folder, record):
    where = record.name
    if record.origin is not None and record.origin.file:
        where = _shown(_file(folder, record.origin))
    scale = f" at scale {record.scale}" if record.scale else ""
    return f"{where}{scale} ({record.question!r} in its {NAME})"


def _shown(path):
    """A path relative to the working folder, where it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
