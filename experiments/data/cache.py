"""Cached folders: each is built once and then only read, even if several processes need it or one is killed."""

import os
import shutil
from pathlib import Path

from filelock import FileLock

from arch import whole_file
from arch.errors import DataError
from experiments.files import flush

VARIABLE = "ARCHBENCH_CACHE"


def root():
    """The cache folder: `$ARCHBENCH_CACHE`, or `~/.cache/archbench`."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/archbench").expanduser()


def obtain(root, key, build):
    """The folder `root/key`. If it does not exist, `build(scratch folder)` makes it.

    The folder gets its name only when it is complete and on disk (flushed, then renamed). One process builds under a
    lock while the others wait. Raises DataError if the folder cannot be written, and whatever `build` raises; in both
    cases no partial folder is left.
    """
    root = Path(root)
    folder = root / key
    with writing(folder):
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{key}.lock"):
            if not folder.is_dir():
                _build(folder, build)
    return folder


def writing(folder):
    """Context manager. Raises DataError where a folder of the cache cannot be written until the end of the block."""
    return whole_file.writing(folder, f"; set {VARIABLE} to another folder")


def _build(folder, build):
    # Only the lock holder builds, so other scratch folders of this key are from processes that were killed.
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


def damaged(folder, error):
    """The DataError for a prepared folder that cannot be read."""
    return DataError(f"{folder}: the token cache is damaged ({error}); delete this folder and start again")
