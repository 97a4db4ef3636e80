"""A file that is there whole or not at all, and what is said where it cannot be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arch.errors import DataError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yields a scratch file's path. It takes the place of `path` when the block ends without an error, and is removed otherwise."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def writing(place: Path, remedy: str = "") -> Iterator[None]:
    """Raises DataError for an OSError in the block: `PLACE: cannot be written (why)REMEDY`.

    Where the error names a file elsewhere, such as one that was to be read meanwhile, the DataError names that one. A reader of
    the output who is gone is not an error of the place: BrokenPipeError passes.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why, named = error.strerror or error, error.filename
        if isinstance(named, (str, bytes)) and not _belongs(named, place):
            raise DataError(f"{os.fsdecode(named)}: {why}", key=None) from None
        raise DataError(f"{place}: cannot be written ({why}){remedy}", key=None) from None


def _belongs(named, place):
    """Whether a path is a place, below it, above it, or beside it as `NAME.more` or `.NAME.more`: a lock, a scratch file."""
    named, place = Path(os.path.abspath(os.fsdecode(named))), Path(os.path.abspath(place))
    if not named.is_relative_to(place.parent):
        return place.is_relative_to(named)
    beside = named.relative_to(place.parent).parts
    return not beside or f"{beside[0].removeprefix('.')}.".startswith(f"{place.name.removeprefix('.')}.")
