"""What is to do in a study. A queue gives jobs and is told how they ended; a worker does not know which queue it serves.

    title, total              for the display: what this queue does, and how many runs it still has, roughly
    known, done               for the display: the jobs that are known already; (job, record) of runs done before
    take() -> Job | None      the next job, or None if there is none now; asked again after every outcome
    told(outcome)             how one of its jobs ended; returns the outcomes that follow from it without a run

`Runs` gives the reported runs, `sweeps.tune.Search` the trials of a search.
"""

from collections import deque

from experiments import evaluations
from sweeps import folders
from sweeps.job import Outcome


class Runs:
    """Runs in the order given. Those that are finished and measured already are reused."""

    def __init__(self, title, jobs):
        self.jobs, self.done, left = jobs, [], []
        for job in jobs:
            if folders.is_finished(job.folder, job.plan.identity, job.seed) and not _unmeasured(job):
                self.done.append((job, folders.record_of(job.folder)))
            else:
                left.append(job)
        self.left, self.known, self.total = deque(left), left, len(left)
        self.title = f"{title}: {self.total} of {len(jobs)} runs to do"
        self.ended = {job.folder: Outcome(job, "finished", record, reused=True) for job, record in self.done}

    def take(self):
        """The next Job, or None."""
        return self.left.popleft() if self.left else None

    def told(self, outcome):
        """Keep how a job ended."""
        self.ended[outcome.job.folder] = outcome
        return []

    def outcomes(self):
        """The Outcomes in the order of the jobs."""
        return [self.ended[job.folder] for job in self.jobs]


def _unmeasured(job):
    """Whether a finished run lacks an evaluation that its study asks for: its worker then does it, and trains nothing."""
    return bool(evaluations.missing(evaluations.planned(job.plan.spec), job.folder))
