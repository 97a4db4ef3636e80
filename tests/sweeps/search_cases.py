"""What the tests of searches share: a study that can be searched, its queue, and runs that end as a test says."""

import optuna
import sweeps_fakes as fakes

from sweeps.job import Outcome
from sweeps.search.queue import Search

WINDOW = "model.blocks.local.mixer.window"
SPACE = {
    "optimizer.lr": {"low": 1e-3, "high": 1e-1},
    "mixer": {
        "choices": {
            "attention": {"space": {WINDOW: {"choices": [2, 4, 8]}}},
            "recurrence": {
                "set": {"model.blocks.local.mixer": {"type": "rg_lru"}},
                "space": {"model.blocks.local.mixer.width": {"low": 8, "high": 32, "step": 8}},
            },
        }
    },
}
SEARCH = {"space": SPACE, "minimise": "select/loss", "trials": 6, "sampler": "random"}


STORAGES = {}


def queue(planned, **more):
    """A queue of a study's search. Its storage is in memory, which is fast, and outlives the queue, as a database does."""
    return Search(planned, STORAGES.setdefault(planned.folder, optuna.storages.InMemoryStorage()), **more)


def done(search, job, status="finished", loss=None, **record):
    """Write the record that a run of a job would leave, and tell the queue."""
    if status == "finished":
        record["metrics"] = {"select/loss": loss_of(job) if loss is None else loss}
    job.folder.mkdir(parents=True, exist_ok=True)
    kept = fakes.record(job.plan, job.seed, status, steps=2, **record)
    kept.write(job.folder)
    search.told(Outcome(job, status, kept))


def loss_of(job):
    """The best rate is 2e-2; a longer window and a recurrence are better."""
    mixer = job.plan.spec.model.blocks["local"].mixer
    return abs(job.plan.spec.optimizer["lr"] - 2e-2) + 1 / (mixer.get("window") or 16)


def finish(search, **how):
    jobs = list(iter(search.take, None))
    while jobs:
        for job in jobs:
            done(search, job, **how)
        jobs = list(iter(search.take, None))


def states(search):
    return [trial.state for trial in search.records()]
