"""What passes between a study and its workers: a run to do, what happened to it, how it ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.record import RunRecord


@dataclass(frozen=True)
class Job:
    """One run to do. `plan`: its experiments.plan.RunPlan. `trial`: the number of its tuning trial, None if reported."""

    arm: str
    seed: int
    plan: Any
    folder: Path
    trial: int | None = None

    @property
    def cell(self):
        """(row, column) of the run in a table."""
        return self.arm, f"seed {self.seed}" if self.trial is None else f"trial {self.trial}, seed {self.seed}"

    @property
    def title(self):
        """The run in words."""
        return " ".join(self.cell)

    @property
    def threads(self):
        """CPU threads that its process is pinned to, and so the cores it keeps busy."""
        return self.plan.spec.train.threads

    @property
    def flops(self):
        """Training FLOPs of the whole run, as the chosen path computes them: what its share of a study's time is."""
        per_token = self.plan.cost.get("flops_per_token", {}).get("executed", {}).get("train")
        return float(per_token or 1) * self.plan.spec.tokens


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `lost`: its worker died twice. `message` says why where it did not finish."""

    job: Job
    status: Literal["finished", "failed", "interrupted", "lost"]
    record: RunRecord | None = None
    message: str = ""
    reused: bool = False


@dataclass(frozen=True)
class Event:
    """Something to show: a run started, went on (`progress`), waits for another process, is tried again, or ended."""

    kind: Literal["started", "progress", "waiting", "again", "ended", "stopping"]
    job: Job | None = None
    progress: dict[str, Any] | None = None
    outcome: Outcome | None = None
    message: str = ""
