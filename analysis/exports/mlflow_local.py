"""Runs for MLflow, in a SQLite database: `OUT/mlflow.db`. Nothing is sent: MLflow's reports of its use are off."""

import logging
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.exports.runs import Exported, ExportedRun
from arch.errors import DataError, install
from arch.spec import spelt

DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
# MLflow's limits: so many metrics and parameters at a time, and characters of a parameter.
METRICS, PARAMETERS, LONGEST = 1000, 100, 6000
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED", "running": "RUNNING"}


def write(exported: Exported, folder: Path, final: Path) -> None:
    """Write every run. final: the folder that `folder` is moved to in the end. Raises DataError without the package."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # for this process, before the import: MLflow asks once
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise DataError(f"mlflow needs the package mlflow-skinny: {install('mlflow')}", key=None) from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=f"sqlite:///{(folder / DATABASE).resolve()}")
    about = "\n\n".join(exported.about)[:5000]
    tags = {"mlflow.note.content": about, "archbench.folder": str(exported.folder)}
    experiment = client.create_experiment(exported.name, artifact_location=(final / ARTIFACTS).resolve().as_uri(), tags=tags)
    for run in exported.runs:
        _write(client, experiment, run)


def _write(client: Any, experiment: str, run: ExportedRun) -> None:
    from mlflow.entities import Metric, Param

    began, ended = _milliseconds(run.record.started), _milliseconds(run.record.ended)
    tags = {"arm": run.arm, "seed": str(run.record.seed), "identity": run.record.identity, "verdict": run.verdict}
    made = client.create_run(experiment, start_time=began, tags=tags, run_name=run.name)
    number = made.info.run_id
    parameters = [Param(_key(key), spelt(value)[:LONGEST]) for key, value in run.options.items()]
    for i in range(0, len(parameters), PARAMETERS):
        client.log_batch(number, params=parameters[i : i + PARAMETERS])
    points = run.points()
    last = points[-1][0] if points else 0
    metrics = [Metric(_key(name), value, began, step) for step, numbers in points for name, value in numbers.items()]
    metrics += [Metric(_key(name), float(value), ended or began, last) for name, value in run.metrics.items()]
    metrics = [metric for metric in metrics if math.isfinite(metric.value)]
    for i in range(0, len(metrics), METRICS):
        client.log_batch(number, metrics=metrics[i : i + METRICS])
    client.set_terminated(number, status=STATUS[run.record.status], end_time=ended or began)


def _milliseconds(time: str | None) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000) if time else 0


def _key(name: str) -> str:
    """A name in the characters that MLflow allows."""
    return "".join(char if char.isalnum() or char in "_-. /:" else "_" for char in name)[:250]


def hint(folder: Path) -> str:
    """What a user may do with it."""
    return f"look at them: mlflow ui --backend-store-uri sqlite:///{folder / DATABASE}"
