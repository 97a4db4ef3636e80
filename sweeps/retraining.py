"""Runs whose weights are gone are trained once more where a run that is to do reads them.

A kept copy of a study (`sweeps.keeping`) has records and no weights. Its finished runs count as they are. A run to do that
starts from one of them, or has it as teacher, needs weights: they are those of another study's run of the same identity and
seed, or that run is trained once more. This happens in a folder of its own and measures nothing: the finished run keeps its
record and its numbers, whatever becomes of the second training.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.record import RECORDS
from experiments.start import Parent
from sweeps import folders
from sweeps.job import Job, Outcome

if TYPE_CHECKING:
    from sweeps.study import StudyPlan


class Retraining:
    """A queue (`sweeps.queues`) before another one, `source`: it gives what the source's jobs need first.

    say: called with a sentence for each run that is trained once more. Drivers that share a queue ask for `before` and
    `located` in place of `take`.

    If such a training fails, the runs that need it fail too: each says that the weights are gone.
    """

    def __init__(self, source: Any, study: "StudyPlan", say: Callable[[str], None] = lambda text: None):
        self.source, self.study, self.say = source, study, say
        self.title, self.total, self.known, self.done = source.title, source.total, source.known, source.done
        self.finished: folders.Finished | None = None
        self.trained: dict[tuple[str, int], Job] = {}  # by identity and seed: the runs that are trained once more
        self.failed: set[Path] = set()
        self.held: list[Job] = []  # they wait for one of these
        self.first: deque[Job] = deque()  # to be given before the source's

    def take(self) -> Job | None:
        """The next job whose weights are there, or None if there is none now."""
        for job in self.held:
            if not self.before(job):
                self.held.remove(job)
                return self.located(job)
        while job := self.first.popleft() if self.first else self.source.take():
            begun = set(self.trained)
            needs = self.before(job)
            if not needs:
                return self.located(job)
            self.held.append(job)
            self.first += [each for each in needs if (each.plan.identity, each.seed) not in begun]
        return None

    def before(self, job: Job) -> list[Job]:
        """The runs that are to be trained once more before `job` can start; empty if it can."""
        again = {each.folder: each for each in map(self._retrained, self._weightless(job))}
        return [each for folder, each in again.items() if folder not in self.failed and not _has_weights(each)]

    def located(self, job: Job) -> Job:
        """`job` with the folders in which the weights are that it reads."""
        lacking = self._weightless(job)
        if not lacking:
            return job
        places = {(parent.run, parent.seed): Path(parent.folder) for parent in job.plan.parents if parent.run}
        found = [self._retrained(parent) for parent in lacking]
        places |= {(each.plan.identity, each.seed): each.folder for each in found if _has_weights(each)}
        return replace(job, plan=job.plan.located(job.seed, places))

    def told(self, outcome: Outcome) -> list[Outcome]:
        """How one of its jobs ended. What was trained once more is nothing that the source knows of."""
        if not outcome.job.retrained:
            return self.source.told(outcome)
        if not _has_weights(outcome.job):
            self.failed.add(outcome.job.folder)
        return []

    def progressed(self, job: Job, state: dict[str, Any]) -> bool:
        """How far one of its jobs is; returns whether the run is to be pruned."""
        return not job.retrained and self.source.progressed(job, state)

    def ready(self) -> Iterator[Job]:
        """The source's jobs that could start now, but for weights (`before`)."""
        return iter(self.source.ready())

    def settle(self) -> None:
        """As the source does it."""
        self.source.settle()

    def ask(self) -> bool:
        """As the source does it."""
        return self.source.ask()

    def _weightless(self, job: Job) -> list[Parent]:
        """The runs that a job reads and whose weights are not where it looks for them.

        What a run of the source needs is finished, or has failed; what is trained once more may need what is there no more.
        """
        lacking = []
        for parent in job.plan.parents:
            if not parent.run or not parent.folder:
                continue
            finished = folders.is_finished(parent.folder, parent.run, parent.seed)
            if (finished or job.retrained) and not (finished and folders.has_weights(parent.folder)):
                lacking.append(parent)
        return lacking

    def _retrained(self, parent: Parent) -> Job:
        """The Job that trains a run once more; or that of the same run in another study, whose weights are there."""
        key = parent.run, int(parent.seed or 0)
        if key not in self.trained:
            self.finished = self.finished or folders.Finished(self.study.runs)
            job = self.study.retrained(*key)
            there = self.finished.folder(*key, job.folder, weights=True)
            self.trained[key] = replace(job, folder=there or job.folder)
            if not there:
                _forget(job)
                self.say(f"{job.arm} seed {job.seed}: a run to do reads its weights, which are gone, so it is trained once more")
        return self.trained[key]


def _has_weights(job: Job) -> bool:
    """Whether a job's run is finished and its weights are there."""
    return folders.is_finished(job.folder, job.plan.identity, job.seed) and folders.has_weights(job.folder)


def _forget(job: Job) -> None:
    """Remove the record of an earlier such training whose weights are gone too: it would count as finished."""
    if folders.is_finished(job.folder, job.plan.identity, job.seed):
        for name in RECORDS:
            (job.folder / name).unlink(missing_ok=True)
