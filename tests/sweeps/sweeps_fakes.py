"""Fakes for planning and training. The learning rate of a run selects what the fake training does.

Worker processes import this module, so it does not import torch.
"""

import contextlib
import math
import os
import signal
import time
from pathlib import Path

from arch.spec import digest
from experiments import evaluations
from experiments.orders import PRUNE
from experiments.record import EVALUATIONS, Failure, RunRecord
from experiments.spec import ExperimentSpec
from sweeps.folders import WEIGHTS

FINE, DIES_ONCE, DIES, FAILS, RAISES, WAITS = 1e-3, 2e-3, 2.5e-3, 4e-3, 5e-3, 6e-3
# The disk is full; it tells of no step and does not stop.
FULL, SILENT = 7e-3, 8e-3
# Losses with noise: a baseline, an arm like it, one that is a little worse, and a control. They share the noise of a seed.
NOISY = {1.1e-3: 0.0, 1.2e-3: 0.0, 1.3e-3: 0.012, 1.4e-3: 0.08}
BASE, ALIKE, LITTLE, CONTROL = NOISY
# A whole safetensors file.
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
# Diverges with every third seed.
UNSTABLE = 1.5e-3


def loss_of(lr, seed):
    """The report loss of a run."""
    if lr not in NOISY:
        return 2.0
    return 2.0 + NOISY[lr] + 0.05 * math.sin(7 * seed) + 0.004 * math.sin(1e5 * lr * (seed + 3))


def plan(source, made=None):
    """A fake experiments.plan.plan: its identity needs no data."""
    from experiments.start import Parent, Start

    spec = ExperimentSpec.parse(getattr(source, "document", source))
    references = {position: spec.starts[position][1] for position in made or {}}
    parents = [Parent(name=each.label, run=made[i].identity, seed=each.seed) for i, each in references.items()]
    return planned(spec, start=Start(parents=parents, taken=["w"], new={}, unused=[]) if parents else None)


def planned(spec, start=None, name=""):
    """The RunPlan of a spec, without data. name: further content of its identity."""
    from experiments.plan import RunPlan

    decides = {"spec": spec.dump(identity=True), "start": start and start.identity, "name": name}
    return RunPlan(spec=spec, identity=digest(decides), start=start)


def record(job_plan, seed, status, **more):
    """A RunRecord of a plan, without training."""
    return RunRecord(status=status, identity=job_plan.identity, seed=seed, spec=job_plan.spec.dump(), **more)


def finish(job):
    """Write a finished record, weights and the files of its evaluations into a job's folder."""
    (job.folder / EVALUATIONS).mkdir(parents=True, exist_ok=True)
    for evaluation in evaluations.planned(job.plan.spec):
        (job.folder / EVALUATIONS / evaluation.file).touch()
    (job.folder / WEIGHTS).write_bytes(NO_TENSORS)
    metrics = {"report/loss": 2.0, "select/loss": 2.5}
    record(job.plan, job.seed, "finished", metrics=metrics).write(job.folder)


def prepare(threads):
    """The `prepare` function of a worker: returns the fake training function."""
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    return train


def prepare_slowly(threads):
    """A `prepare` function that does not end, as where libraries are imported."""
    time.sleep(60)


def broken(threads):
    """A `prepare` function that fails, so that the worker cannot start."""
    raise ImportError("no such thing")


def train(job, progress, stop):
    """Append this process's id to `visits`, then do what the learning rate says."""
    seed, folder, lr = job["seed"], Path(job["folder"]), job["plan"]["spec"]["optimizer"]["lr"]

    def record(status, **more):
        plan = job["plan"]
        return RunRecord(status=status, identity=plan["identity"], seed=seed, spec=plan["spec"], **more)

    with open(folder / "visits", "a") as file:
        file.write(f"{os.getpid()}\n")
    visits = len((folder / "visits").read_text().split())
    if lr == SILENT:
        time.sleep(60)
    progress({"step": 1, "steps": 2, "loss": 3.0, "select_loss": None, "tokens_per_second": 10.0})
    if lr == DIES or (lr == DIES_ONCE and visits == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if lr == RAISES:
        raise OSError(5, "Input/output error")
    if lr == FULL:
        raise OSError(28, "No space left on device")
    if lr == FAILS or (lr == UNSTABLE and seed % 3 == 2):
        failure = Failure(step=1, error="NonFinite", message="the loss is nan")
        done = record("failed", failure=failure)
    elif lr == WAITS and not _waited(stop):
        done = record("interrupted")
    else:
        # The best learning rate is 2e-2 for even seeds and 2.4e-2 for odd ones.
        metrics = {"report/loss": loss_of(lr, seed), "select/loss": abs(lr - (2.4e-2 if seed % 2 else 2e-2)) + seed * 1e-6}
        done = record("finished", metrics=metrics, timing={"runs_at_once": float(job["runs_at_once"])})
    with contextlib.suppress(OSError):
        if done.status == "finished":
            (folder / WEIGHTS).write_bytes(NO_TENSORS)
        done.write(folder)
    return done.dump()


def _waited(stop):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if stop():
            return False
        time.sleep(0.02)
    return True


STEP_SECONDS = 0.25


def timer(threads):
    """A fake `sweeps.paces.timer`: every step takes the same time."""

    def timed(job, progress, stop):
        about = {"identity": job["plan"]["identity"], "seed": job["seed"], "spec": job["plan"]["spec"]}
        return RunRecord(status="finished", timing={"step_seconds": STEP_SECONDS}, **about).dump()

    return timed


def prepare_pruned(threads):
    """The `prepare` function of a worker whose trials get worse and worse: each reports a loss and can be pruned."""
    return prunable


def prunable(job, progress, stop):
    """Report a loss at step 4, higher with every trial; a trial that is then told to ends as pruned."""
    seed, folder, loss = job["seed"], Path(job["folder"]), 1.0 + (job["trial"] or 0)
    progress({"step": 4, "steps": 12, "loss": loss, "tokens_per_second": 10.0, "selected": {"select/loss": loss}})
    until, word = time.monotonic() + 1.0, None
    while job["trial"] is not None and word is None and time.monotonic() < until:
        word = stop()
        time.sleep(0.02)
    status = "pruned" if word == PRUNE else "finished"
    metrics = {} if word else {"select/loss": loss, "report/loss": loss}
    plan = job["plan"]
    kept = RunRecord(status=status, identity=plan["identity"], seed=seed, spec=plan["spec"], steps=4, metrics=metrics)
    kept.write(folder)
    return kept.dump()


def saying_gpus(threads):
    """What a worker's environment says of its GPUs, as an error that the pool passes on."""

    def fails(data, progress, stop):
        raise RuntimeError(f"GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}")

    return fails
