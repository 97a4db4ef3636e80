"""Optuna's own dashboard on the storage of a study: history, importances and hyperparameters while the search runs."""

import importlib.util
from pathlib import Path
from typing import Any

from arch.errors import DataError, install

PACKAGE = "optuna_dashboard"


def serve(folder: Path, url: str | None, port: int) -> None:
    """Serve the dashboard on localhost until it is interrupted. url: a shared storage; None for the file in the study's folder.

    Raises DataError, before anything is opened, if the package or the storage is not there.
    """
    from sweeps import storage as storages
    from sweeps.search.storage import DATABASE

    if importlib.util.find_spec(PACKAGE) is None:
        raise DataError(f"needs the package optuna-dashboard: {install('dashboard')}")
    opened: Any
    if url:
        # In this process: on a command line of its own, a password would be readable for every user of the machine.
        opened, shown = storages.opened(url, make=False), storages.shown(url)
        if opened is None:
            raise DataError(f"{shown}: nothing is stored there yet")
    else:
        file = folder / DATABASE
        if not file.is_file():
            raise DataError(f"{file}: no such file; it is there once a search or a tuning has begun")
        opened, shown = f"sqlite:///{file.resolve()}", str(file)
    import optuna_dashboard

    print(f"optuna-dashboard of {shown}: http://localhost:{port}/  (Ctrl-C ends it)", flush=True)
    optuna_dashboard.run_server(opened, host="localhost", port=port)
