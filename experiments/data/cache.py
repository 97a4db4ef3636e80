"""A folder that is built once and then only read, however many processes want it and whenever one of them dies."""

import os
import shutil
from pathlib import Path

from filelock import FileLock

from arch.errors import DataError
from experiments.record import flush

VARIABLE = "ARCHBENCH_CACHE"


def root():
    """Where prepared data lies: `$ARCHBENCH_CACHE`, or `~/.cache/archbench`."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/archbench").expanduser()


def obtain(root, key, build):
    """The folder `root/key`, made by `build(scratch folder)` if it is not there yet.

    It appears under its name only when whole and on disk (flushed, then renamed); a lock lets one process build while
    the others wait. Raises DataError if it cannot be written, whatever `build` raises, and then leaves nothing.
    """
    root = Path(root)
    folder = root / key
    try:
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{key}.lock"):
            if not folder.is_dir():
                _build(folder, build)
    except OSError as error:
        reason = error.strerror or error
        said = f"{folder}: the token cache cannot be written ({reason}); set {VARIABLE} to another folder"
        raise DataError(said, key=None) from None
    return folder


def _build(folder, build):
    # Whoever holds the lock is the only builder: other scratch folders of this key are from processes that were killed.
    for stale in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stale)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        scratch.mkdir()
        build(scratch)
        for path in (*scratch.iterdir(), scratch):
            flush(path)
        os.rename(scratch, folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
