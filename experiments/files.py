"""Files that are written whole or not at all, and are on disk when the call returns."""

import os
from pathlib import Path


def write_atomically(path, content):
    """Write bytes to a file, atomically."""
    durably(path, lambda scratch: scratch.write_bytes(content))


def write_first(path, content):
    """Write bytes to a file as `write_atomically` does, unless there is one. Raises FileExistsError then."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.first")
    try:
        scratch.write_bytes(content)
        flush(scratch)
        os.link(scratch, path)
        flush(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def durably(path, write):
    """Call `write(scratch)` with a scratch path beside `path`, flush the file to disk and rename it over `path`.

    On failure the scratch file is removed. A kill or a crash at any moment leaves the old file or the new one.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        flush(scratch)
        os.replace(scratch, path)
        flush(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def flush(path):
    """Flush a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
