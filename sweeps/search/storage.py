"""Where a search keeps its trials, unless it is told otherwise: an SQLite file in the study's folder, for one process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna

from arch.errors import DataError
from sweeps import storage

DATABASE = "study.db"


class Unusable(DataError):
    """The database of a study's search cannot be used."""


def of_folder(folder: Path) -> optuna.storages.RDBStorage:
    """Optuna's storage in a study's folder. SQLite hands out a trial twice, so only one process may use it at a time.

    Raises Unusable, before anything is written, where the file that is there is no database, or a broken one.
    """
    path = Path(folder).resolve() / DATABASE
    try:
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    except (sqlite3.Error, RuntimeError, ValueError, *storage.away()) as error:  # RuntimeError: of another release of Optuna
        raise Unusable(
            f"{Path(folder) / DATABASE}: the trials of the search cannot be read ({storage.why_away(error)}); move it away, "
            "and the same command searches anew, with the runs that are finished",
            key=None,
        ) from None
