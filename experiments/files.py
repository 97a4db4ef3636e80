"""Files that are written whole or not at all, and are on disk when the call returns."""

import os
import re
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
    except OSError as error:
        raise of(error, path) from None
    finally:
        scratch.unlink(missing_ok=True)


def durably(path, write, before=None):
    """Call `write(scratch)` with a scratch path beside `path`, flush the file to disk and rename it over `path`.

    before: the path under which the file that was there is kept. On failure the scratch file is removed. A kill or a crash at
    any moment leaves the old file, under one of its names, or the new one. Raises OSError, also where the library that writes
    says it in other words.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        flush(scratch)
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(scratch, path)
        flush(path.parent)
    except OSError as error:
        raise of(error, path) from None
    except Exception as error:
        if found := re.search(r"\bos error (\d+)\b", str(error)):  # how Rust's libraries, such as safetensors, say it
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        scratch.unlink(missing_ok=True)


def of(error, path):
    """The OSError as one of `path`, where it names a scratch file beside it, which nobody knows."""
    scratch = any(f"/.{Path(path).name}." in f"/{each}" for each in (error.filename, error.filename2) if each)
    return OSError(error.errno, error.strerror, str(path)) if scratch and error.errno else error


class Writing:
    """A binary file to write into, as a context manager: what the system says of a failed write is raised at the end.

    For libraries whose own error says something else: on a full disk, torch.save speaks of an unexpected position.
    """

    def __init__(self, path):
        self.path, self.error = path, None

    def __enter__(self):
        self.file = open(self.path, "wb")
        return self

    def __exit__(self, *exception):
        try:
            self.file.close()
        except OSError as error:
            self.error = self.error or error
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, str(self.path)) from None

    def write(self, data):
        """Write bytes; returns how many."""
        return self._noted(self.file.write, data)

    def flush(self):
        """Hand to the system what was written so far."""
        return self._noted(self.file.flush)

    def _noted(self, act, *arguments):
        try:
            return act(*arguments)
        except OSError as error:
            self.error = self.error or error
            raise


def flush(path):
    """Flush a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
