"""What a study and its workers exchange: a run to do (Job), what happens to it (Event), how it ended (Outcome)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.plan import RunPlan
from experiments.record import Failure, RunRecord

NO_ROOM = ("No space left on device", "Disk quota exceeded", "[Errno 28]", "[Errno 122]")


@dataclass(frozen=True)
class Job:
    """One run to do: all that a worker needs. trial: its tuning trial's number; None for any other run.

    home: of an attempt (`sweeps.attempts`), the folder that the run gets in the end; `folder` is then the attempt's own.
    retrained: whether the run was finished before, and is done once more for its weights (`sweeps.retraining`). A worker is
    not told.
    """

    arm: str
    seed: int
    plan: RunPlan
    folder: Path
    trial: int | None = None
    home: Path | None = None
    retrained: bool = False

    def dump(self):
        """Plain data that `parse` accepts and JSON can hold: what is sent to a worker."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "plan": self.plan.dump(),
            "folder": str(self.folder),
            "trial": self.trial,
            "home": self.home and str(self.home),
        }

    @classmethod
    def parse(cls, data):
        """The Job that `dump` described. Raises SpecError."""
        home = data.get("home") and Path(data["home"])
        return cls(**{**data, "plan": RunPlan.parse(data["plan"]), "folder": Path(data["folder"]), "home": home})

    @property
    def cell(self):
        """(row, column) of the run in a table."""
        if self.trial is not None:
            return self.arm, f"trial {self.trial}, seed {self.seed}"
        return self.arm, f"seed {self.seed}{', retrained' if self.retrained else ''}"

    @property
    def title(self):
        """The run in words."""
        return " ".join(self.cell)

    @property
    def needs(self):
        """Folders of the runs that must be finished before this one can start."""
        return [Path(parent.folder) for parent in self.plan.parents if parent.run]

    @property
    def threads(self):
        """The CPU threads that a process of the run is pinned to."""
        return self.plan.spec.train.threads

    @property
    def cores(self):
        """The number of cores that the run keeps busy, with a process for each of its devices."""
        return self.threads * self.plan.spec.train.processes

    @property
    def gpus(self):
        """How many GPUs the run is handed."""
        return self.plan.spec.train.devices if self.plan.spec.train.accelerator == "gpu" else 0

    @property
    def flops(self):
        """Training FLOPs of the whole run, as executed; 1 per token if unknown. Used to estimate the time left."""
        per_token = self.plan.cost.get("flops_per_token", {}).get("executed", {}).get("train")
        return float(per_token or 1) * self.plan.spec.tokens + self.plan.cost.get("objective", {}).get("flops", 0.0)


def record_failure(job, error, message, machine=None, replaces=True):
    """Mark a run's record as failed where its own process could not, unless it says finished already.

    machine: whether the machine caused it; by default the error says. replaces: whether a record that says failed is
    replaced. If not, the record is made only where none is, so that this can never be written over a result that comes at
    the same moment. Returns the record, or None if it cannot be written.
    """
    plan = job.plan
    before = RunRecord.read_whole(job.folder)
    record = before or RunRecord(
        status="running",
        identity=plan.identity,
        seed=job.seed,
        spec=plan.spec.dump(),
        data=plan.data,
        plugins=plan.plugins,
        cost=plan.cost,
        threads=job.threads,
    )
    if record.status == "finished" or (record.status in ("failed", "pruned") and not replaces):
        return record
    failure = Failure(step=record.steps, error=error, message=message, machine=machine)
    record = record.model_copy(update={"status": "failed", "failure": failure})
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        if replaces or before:
            record.write(job.folder)
        else:
            record.write_first(job.folder)
    except OSError:
        return None
    return record


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `lost`: its worker died twice. `pruned`: it did not pay to go on. `abandoned`: another process does
    it now. message: why it did not finish. reused: it was done before.
    """

    job: Job
    status: Literal["finished", "failed", "interrupted", "lost", "pruned", "abandoned"]
    record: RunRecord | None = None
    message: str = ""
    reused: bool = False

    @property
    def no_room(self):
        """Whether it failed because a disk is full."""
        failure = self.record.failure if self.record else None
        text = f"{self.message} {failure.message if failure else ''}"
        return self.status == "failed" and any(words in text for words in NO_ROOM)


@dataclass(frozen=True)
class Event:
    """Something to show: a run started, made progress, waits for another process, is tried again or ended; or the pool
    is stopping.
    """

    kind: Literal["started", "progress", "waiting", "again", "ended", "stopping"]
    job: Job | None = None
    progress: dict[str, Any] | None = None
    outcome: Outcome | None = None
    message: str = ""
