"""Where a search keeps its trials, unless it is told otherwise: an SQLite file in the study's folder, for one process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

from arch.errors import DataError
from sweeps import storage

DATABASE, LOCK = "study.db", ".tune.lock"


class Unusable(DataError):
    """The database of a study's search cannot be used."""


def of_folder(folder: Path) -> optuna.storages.RDBStorage:
    """Optuna's storage in a study's folder. SQLite hands out a trial twice, so only one process may use it at a time.

    Raises Unusable, before anything is written, where the file that is there is no database, or a broken one.
    """
    path = Path(folder).resolve() / DATABASE
    broken: tuple[type[BaseException], ...] = (sqlite3.Error, RuntimeError, ValueError, *storage.away())
    try:
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    except broken as error:  # RuntimeError: of another release of Optuna
        raise Unusable(
            f"{Path(folder) / DATABASE}: the trials of the search cannot be read ({storage.why_away(error)}); move it away, "
            "and the same command searches anew, with the runs that are finished",
            key=None,
        ) from None


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
