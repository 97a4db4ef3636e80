"""Fakes for planning and training. The learning rate of a run selects what the fake training does.

Worker processes import this module, so it does not import torch.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from arch.spec import digest
from experiments.record import Failure, RunRecord
from experiments.spec import ExperimentSpec

FINE, DIES_ONCE, DIES, FAILS, RAISES, WAITS = 1e-3, 2e-3, 2.5e-3, 4e-3, 5e-3, 6e-3


@dataclass(frozen=True)
class Plan:
    """A fake experiments.plan.RunPlan."""

    spec: ExperimentSpec
    identity: str
    data: dict[str, Any] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)


def plan(source):
    """A fake experiments.plan.plan: its identity needs no data."""
    spec = ExperimentSpec.parse(getattr(source, "document", source))
    return Plan(spec, digest(spec))


def record(job_plan, seed, status, **more):
    """A RunRecord of a plan, without training."""
    return RunRecord(status=status, identity=job_plan.identity, seed=seed, spec=job_plan.spec.dump(), **more)


def finish(job):
    """Write a finished record into a job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    metrics = {"report/loss": 2.0, "select/loss": 2.5}
    record(job.plan, job.seed, "finished", metrics=metrics).write(job.folder)


def prepare(threads):
    """The `prepare` function of a worker: returns the fake training function."""
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    return train


def broken(threads):
    """A `prepare` function that fails, so that the worker cannot start."""
    raise ImportError("no such thing")


def train(job_plan, seed, folder, progress=None, stop=None):
    """Append this process's id to `visits`, then do what the learning rate says."""
    with open(folder / "visits", "a") as file:
        file.write(f"{os.getpid()}\n")
    visits = len((folder / "visits").read_text().split())
    lr = job_plan.spec.optimizer.lr
    progress({"step": 1, "steps": 2, "loss": 3.0, "select_loss": None, "tokens_per_second": 10.0})
    if lr == DIES or (lr == DIES_ONCE and visits == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if lr == RAISES:
        raise OSError(28, "No space left on device")
    if lr == FAILS:
        failure = Failure(step=1, error="NonFinite", message="the loss is nan")
        done = record(job_plan, seed, "failed", failure=failure)
    elif lr == WAITS and not _waited(stop):
        done = record(job_plan, seed, "interrupted")
    else:
        # The best learning rate is 2e-2.
        metrics = {"report/loss": 2.0, "select/loss": abs(lr - 2e-2) + seed * 1e-6}
        done = record(job_plan, seed, "finished", metrics=metrics)
    with contextlib.suppress(OSError):
        done.write(folder)
    return done


def _waited(stop):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if stop():
            return False
        time.sleep(0.02)
    return True
