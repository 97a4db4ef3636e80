"""Where a search keeps its trials, unless it is told otherwise: an SQLite file in the study's folder, for one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

DATABASE, LOCK = "study.db", ".tune.lock"


def of_folder(folder: Path) -> optuna.storages.RDBStorage:
    """Optuna's storage in a study's folder. SQLite hands out a trial twice, so only one process may use it at a time."""
    return optuna.storages.RDBStorage(f"sqlite:///{Path(folder).resolve() / DATABASE}")


@contextmanager
def only_one(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the search in a study's folder. Another process waits for it and then finds the trials done."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is tuning in {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
