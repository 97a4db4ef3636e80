"""The digest of a checkpoint's weights, kept beside them when they are written: flipped bytes are noticed before they are used.

The file has the form of `sha256sum`, so that `sha256sum -c model.sha256` says the same.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from arch.errors import DataError

WEIGHTS, NAME = "model.safetensors", "model.sha256"


def write(folder: Path | str) -> None:
    """Keep the digest of the weights in a folder, which are whole now."""
    (Path(folder) / NAME).write_text(line(folder))


def line(folder: Path | str) -> str:
    """What the file says of the weights in a folder."""
    return f"{of(Path(folder) / WEIGHTS)}  {WEIGHTS}\n"


def discard(folder: Path | str) -> None:
    """Remove the digest of weights that are about to change."""
    (Path(folder) / NAME).unlink(missing_ok=True)


def of(path: Path | str) -> str:
    """sha256 (hex) of a file. It is read once, while its `state` stays."""
    return _of(*state(path))


def state(path: Path | str) -> tuple[Path, int, int]:
    """(path, size, time of change) of a file: with the same three, it needs to be read only once."""
    path = Path(path).resolve()
    about = path.stat()
    return path, about.st_size, about.st_mtime_ns


@lru_cache(maxsize=64)
def _of(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path | str) -> None:
    """Raise DataError where the weights in a folder are not those that were written. Without a digest, nothing is known."""
    kept, weights = Path(folder) / NAME, Path(folder) / WEIGHTS
    if not kept.is_file() or not weights.is_file():
        return
    if kept.read_text(errors="replace").split()[:1] != [of(weights)]:
        raise DataError(
            f"{weights}: damaged: not what was written (its sha256 is not that in {NAME}); take it from a copy, or remove the "
            f"folder and make it again (remove {NAME} if you changed the weights yourself)",
            key=None,
        )
