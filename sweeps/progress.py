"""The progress of a study while it runs: one cell per run, and an estimate of the time left."""

import time
from collections import deque
from dataclasses import dataclass

from experiments.record import shown

# Seconds whose pace weighs most in an estimate of the time left.
RECENT = 60.0


@dataclass
class Cell:
    """One run as displayed. share: the part that is done, 0 to 1. head_start: the part done before this start.

    preparing: what it does before its first step, and how much of it is done; empty while it trains.
    """

    state: str = "to do"
    share: float = 0.0
    head_start: float | None = None
    loss: float | None = None
    speed: float | None = None
    step: int = 0
    steps: int = 0
    flops: float = 1.0
    message: str = ""
    preparing: str = ""
    began: float = 0.0


class Progress:
    """Cells by (row, column), updated by events."""

    def __init__(self, jobs, finished=(), total=0, clock=time.monotonic):
        """jobs: runs to do. finished: (job, record) of runs done before. total: all runs, also those not known yet."""
        self.total, self.clock = total, clock
        self.cells = {job.cell: Cell(flops=job.flops) for job in jobs}
        for job, record in finished:
            self.cells[job.cell] = Cell(state="reused", share=1.0, head_start=1.0, loss=measured_loss(job, record), flops=job.flops)
        self.began = clock()
        self.passed: deque[tuple[float, float]] = deque()  # (time, FLOPs done) of the last minute, and one before it

    def take(self, event):
        """Update the cell of the event's run."""
        if event.job is None:
            return
        self._take(event)
        now = self.clock()
        if event.kind in ("progress", "ended") and (not self.passed or now - self.passed[-1][0] >= 1):
            self.passed.append((now, self._done()))
            while len(self.passed) > 1 and self.passed[1][0] <= now - RECENT:
                self.passed.popleft()

    def _take(self, event):
        cell = self.cells.setdefault(event.job.cell, Cell(flops=event.job.flops))
        if event.kind == "started":
            cell.state, cell.began, cell.message = "running", time.monotonic(), ""
        elif event.kind == "progress":
            self._advance(cell, event.progress)
        elif event.kind in ("waiting", "again"):
            cell.state, cell.message, cell.speed = event.kind, event.message, None
        elif event.kind == "ended":
            self._end(cell, event.outcome)

    def counts(self):
        """(runs ended, runs in all)."""
        ended = [cell for cell in self.cells.values() if cell.state in ENDED]
        return len(ended), max(self.total, len(self.cells))

    def share(self):
        """The part of all runs' FLOPs that is done, 0 to 1."""
        whole = self._flops()
        return sum(cell.flops * cell.share for cell in self.cells.values()) / whole if whole else 1.0

    def seconds_left(self):
        """The estimated seconds left; None while nothing has been done.

        The pace of the last minute counts for two thirds, that since this start for one. So a machine that became slower or
        faster shows soon, and so do the seconds in which workers started; a minute without a step, such as a long evaluation,
        does not make the estimate endless.
        """
        now, done = self.clock(), self._done()
        left = self._flops() - sum(cell.flops * cell.share for cell in self.cells.values())
        if done <= 0 or now <= self.began:
            return None
        pace = overall = done / (now - self.began)
        if self.passed and now > self.passed[0][0]:
            recent = (done - self.passed[0][1]) / (now - self.passed[0][0])
            pace = (2 * recent + overall) / 3
        return left / pace

    def _done(self):
        """The FLOPs that were done since this start."""
        return sum(cell.flops * (cell.share - (cell.head_start or 0.0)) for cell in self.cells.values())

    def _flops(self):
        """The FLOPs of all runs. A run that is not known yet counts as the mean of the known ones."""
        known = sum(cell.flops for cell in self.cells.values())
        return known * self.counts()[1] / len(self.cells) if self.cells else 0.0

    def _advance(self, cell, state):
        if "warning" in state:
            return
        if "preparing" in state:
            cell.preparing = f"{state['preparing']} {state['done'] / max(1, state['total']):.0%}"
            return
        cell.preparing = ""
        cell.step, cell.steps = state.get("step", 0), state.get("steps", 0)
        cell.share = min(1.0, cell.step / cell.steps) if cell.steps else 0.0
        if cell.head_start is None:
            # A resumed run does not begin at 0. What it did earlier does not count for the pace of this start.
            cell.head_start = cell.share
        cell.loss = state.get("select_loss") or state.get("loss") or cell.loss
        cell.speed = state.get("tokens_per_second")

    def _end(self, cell, outcome):
        cell.state, cell.message, cell.speed = outcome.status, outcome.message, None
        if outcome.reused:
            cell.state, cell.head_start = "reused", 1.0
        if outcome.record:
            loss = measured_loss(outcome.job, outcome.record) if outcome.reused else final_loss(outcome.record)
            cell.loss = loss or cell.loss
        if outcome.status != "interrupted":
            cell.share = 1.0
        if cell.head_start is None:
            # No progress was reported (a short run): the whole run counts for the pace, unless it did not finish.
            cell.head_start = 0.0 if outcome.status == "finished" else 1.0


ENDED = ("finished", "reused", "failed", "lost")


def final_loss(record):
    """The loss that a table shows for a run: on the report split, else on the select split, else None."""
    return record.metrics.get("report/loss", record.metrics.get("select/loss"))


def measured_loss(job, record):
    """`final_loss` of a finished run by this job's own evaluations: what another study measured of the run is not among them."""
    files = {each.key: each.file for each in job.plan.evaluations}
    return final_loss(shown(record, job.folder, files, [])) if files else None


def clock(seconds):
    """`1:02:03` or `2:03`; `?` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
