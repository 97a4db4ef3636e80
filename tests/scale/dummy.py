"""The runs of the chaos test: a few steps that cost nothing, with checkpoints, a teacher's run for some, and a ledger.

Only the training is made up. Driver, pool, workers, queue and attempts are the product's. Workers import this module, so it
imports no torch.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from experiments import evaluations
from experiments.orders import ABANDON
from experiments.record import EVALUATIONS, RunRecord
from experiments.spec import ExperimentSpec
from sweeps import attempts

LEDGER = "ARCHBENCH_CHAOS_LEDGER"
EVERY = 5
WEIGHTS, CHECKPOINT = "model.safetensors", "checkpoint.ckpt"


def note(job, event, **more):
    """One line of the ledger, in one write: lines of several processes do not mix."""
    place = Path(job["folder"])
    home = Path(job["home"] or job["folder"])
    line = {
        "event": event,
        "run": f"{home.parent.name}/{home.name}",
        "attempt": place.name,
        "pid": os.getpid(),
        "t": time.monotonic(),
        **more,
    }
    ledger = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, (json.dumps(line) + "\n").encode())
    finally:
        os.close(ledger)


def advanced(state, step):
    """The state after a step: a chain, so that no step can be left out or done on another state."""
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def expected(identity, seed, steps):
    """The last state of a run."""
    state = first(identity, seed)
    for step in range(1, steps + 1):
        state = advanced(state, step)
    return state


def first(identity, seed):
    """The state before the first step."""
    return hashlib.sha256(f"{identity} {seed}".encode()).hexdigest()


def write(path, content):
    """Write a file whole or not at all, as the product does but without a flush to disk."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(content)
    os.replace(scratch, path)


def newest(folder):
    """The step of a checkpoint of `train` and its file, or None."""
    try:
        return int(json.loads((folder / CHECKPOINT).read_text())["step"]), [CHECKPOINT]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_whole(folder):
    """Whether the weights of `train` in a folder are whole."""
    try:
        return len((Path(folder) / WEIGHTS).read_text()) == 64
    except OSError:
        return False


def prepare(threads):
    """As `sweeps.worker.trainer`."""
    return train


def train(data, progress, stop):
    """Do a run: its `optimizer.lr` is the seconds of a step, `train.steps` the number of steps."""
    folder, home, plan, seed = Path(data["folder"]), data["home"] and Path(data["home"]), data["plan"], data["seed"]
    identity, steps, seconds = plan["identity"], plan["spec"]["train"]["steps"], plan["spec"]["optimizer"]["lr"]
    if home:
        attempts.begin(folder, home, identity, seed, newest, is_whole)
    done = RunRecord.read_whole(folder)
    if done and done.status == "finished":
        note(data, "taken")
        return done.dump()

    def record(status, **more):
        about = RunRecord(status=status, identity=identity, seed=seed, spec=plan["spec"], **more)
        about.write(folder)
        return about.dump()

    for parent in (plan.get("start") or {}).get("parents", []):
        if not attempts.has_result(Path(parent["folder"]), parent["run"], parent["seed"]):
            need = Path(parent["folder"])
            note(data, "early", need=f"{need.parent.name}/{need.name}")
    step, state = 0, first(identity, seed)
    if (folder / CHECKPOINT).is_file() and (folder / attempts.MARKER).is_file():
        saved = json.loads((folder / CHECKPOINT).read_text())
        step, state = saved["step"], saved["state"]
    note(data, "begin", step=step)
    write(folder / attempts.MARKER, f"{identity} {seed}")
    record("running")
    while step < steps:
        time.sleep(seconds)
        step, state = step + 1, advanced(state, step + 1)
        note(data, "step", step=step)
        progress({"step": step, "steps": steps, "loss": 1.0, "select_loss": None, "tokens_per_second": 1.0})
        word = stop()
        if word == ABANDON:
            note(data, "abandoned")
            return RunRecord(status="interrupted", identity=identity, seed=seed, spec=plan["spec"]).dump()
        if word or step % EVERY == 0:
            write(folder / CHECKPOINT, json.dumps({"step": step, "state": state, "filled": "x" * 20_000}))
        if word:
            return record("interrupted")
    write(folder / WEIGHTS, state)
    (folder / EVALUATIONS).mkdir(exist_ok=True)
    for each in evaluations.planned(ExperimentSpec.parse(plan["spec"])):
        (folder / EVALUATIONS / each.file).touch()
    note(data, "end")
    metrics = {"report/loss": 2.0 + int(state[:6], 16) / 2**26, "select/loss": 2.0}
    done = record("finished", metrics=metrics, notes=[folder.name])
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return done
