"""Where a search keeps its trials, unless it is told otherwise: an SQLite file in the study's folder, for one process."""

from __future__ import annotations

from pathlib import Path

import optuna

DATABASE = "study.db"


def of_folder(folder: Path) -> optuna.storages.RDBStorage:
    """Optuna's storage in a study's folder. SQLite hands out a trial twice, so only one process may use it at a time."""
    return optuna.storages.RDBStorage(f"sqlite:///{Path(folder).resolve() / DATABASE}")
