"""Runs for Weights & Biases, in its offline format: `OUT/wandb/offline-run-*`, which `wandb sync` uploads, if you want that.

Nothing is sent from here, and no key is read: W&B's own mode `offline`, with its reports of errors and of the machine off.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.exports.runs import Exported, ExportedRun
from arch.errors import DataError, install
from arch.spec import digest
from sweeps.folders import safe_name

# What W&B reads when it starts.
OFFLINE = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}


def write(exported: Exported, folder: Path) -> None:
    """Write every run. Raises DataError where the package is not installed."""
    with _environment(OFFLINE):
        try:
            import wandb
        except ImportError:
            raise DataError(f"wandb-offline needs the package wandb: {install('wandb')}", key=None) from None
        settings = wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        for run in exported.runs:
            _write(wandb, settings, exported, run, folder)
        wandb.teardown()
    for path in [*(folder / "wandb").iterdir(), *(folder / "wandb").glob("offline-run-*/*")]:
        if path.is_symlink():  # to the log files of this process
            path.unlink()
        elif path.name in ("logs", "tmp"):
            shutil.rmtree(path)


def _write(wandb: Any, settings: Any, exported: Exported, run: ExportedRun, folder: Path) -> None:
    made = wandb.init(
        project=safe_name(exported.name),
        id=digest({"identity": run.record.identity, "seed": run.record.seed, "arm": run.arm})[:16],
        name=run.name,
        group=run.arm,
        job_type="train",
        tags=[tag[:64] for tag in (run.record.status, run.verdict) if tag],
        notes="\n".join(exported.about),
        config={"seed": run.record.seed, "arm": run.arm, "identity": run.record.identity, **run.record.spec},
        dir=str(folder),
        settings=settings,
    )
    for step, numbers in run.points():
        made.log(numbers, step=step)
    made.summary.update({**run.metrics, "status": run.record.status, "verdict": run.verdict})
    made.finish(exit_code=0 if run.record.status == "finished" else 1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Context manager: environment variables have these values; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def hint(folder: Path) -> str:
    """What a user may do with it."""
    return f"upload them, if you want: wandb sync {folder}/wandb/offline-run-*"
