"""Runs whose weights are gone are trained once more where a run that is to do reads them.

A kept copy of a study (`sweeps.keeping`) has records and no weights. Its finished runs count as they are. A run to do that
starts from one of them, or has it as teacher, needs weights: they are those of another study's run of the same identity and
seed, or that run is trained once more. This happens in a folder of its own and measures nothing: the finished run keeps its
record and its numbers, whatever becomes of the second training.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.start import Parent
from sweeps import folders
from sweeps.job import Job, Outcome
from sweeps.queues import forget

if TYPE_CHECKING:
    from sweeps.study import StudyPlan

# So many jobs wait for weights at most; to look at each of thousands would keep a driver from its workers.
HELD = 64


class Retraining:
    """A queue (`sweeps.queues`) before another one, `source`: it gives what the source's jobs need first.

    say: called with a sentence for each run that is trained once more. Drivers that share a queue ask for `before` and
    `located` in place of `take`.

    If such a training fails, the runs that need it fail too: each says that the weights are gone.
    """

    def __init__(self, source: Any, study: "StudyPlan", say: Callable[[str], None] = lambda text: None):
        self.source, self.study, self.say = source, study, say
        self.title, self.known, self.done = source.title, source.known, source.done
        self.own: dict[tuple[str, int], Job] = {}  # by identity and seed: what this study trains once more, if it must
        self.said: set[Path] = set()
        self.given: set[Path] = set()
        self.failed: set[Path] = set()
        self.held: list[Job] = []  # they wait for one of these
        self.first: deque[Job] = deque()  # to be given before the source's
        lacking = [self._read(parent) for job in source.known for parent in self._weightless(job)]
        self.total = source.total + len({job.folder for job in lacking if not _has_weights(job)})

    def take(self) -> Job | None:
        """The next job whose weights are there, or None if there is none now."""
        while job := self.first.popleft() if self.first else self._next():
            needs = self.before(job)
            if not needs:
                return self.located(job)
            self.held.append(job)
            self.first += [each for each in needs if each.folder not in self.given]
            self.given |= {each.folder for each in needs}
        return None

    def before(self, job: Job) -> list[Job]:
        """The runs that are to be trained once more before `job` can start; empty if it can."""
        again = {each.folder: each for each in map(self._read, self._weightless(job))}
        needs = [each for folder, each in again.items() if folder not in self.failed and not _has_weights(each)]
        for each in needs:
            if each.folder not in self.said:
                self.said.add(each.folder)
                # The record of an earlier such training, whose weights are gone too, would count as finished.
                if folders.is_finished(each.folder, each.plan.identity, each.seed):
                    forget(each)
                self.say(f"{each.arm} seed {each.seed}: a run to do reads its weights, which are gone, so it is trained once more")
        return needs

    def located(self, job: Job) -> Job:
        """`job` with the folders in which the weights are that it reads."""
        lacking = self._weightless(job)
        if not lacking:
            return job
        places = {(parent.run, parent.seed): Path(parent.folder) for parent in job.plan.parents if parent.run}
        found = [self._read(parent) for parent in lacking]
        places |= {(each.plan.identity, each.seed): each.folder for each in found if _has_weights(each)}
        return replace(job, plan=job.plan.located(job.seed, places))

    def told(self, outcome: Outcome) -> list[Outcome]:
        """How one of its jobs ended. What was trained once more is nothing that the source knows of."""
        if not outcome.job.retrained:
            return self.source.told(outcome)
        if not _has_weights(outcome.job):
            self.failed.add(outcome.job.folder)
        self.first += self.held
        self.held = []
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

    def _next(self) -> Job | None:
        """The source's next job; None while as many wait as may: of a search one, which learns from it what to ask for next."""
        return self.source.take() if len(self.held) < (1 if self.source.learns else HELD) else None

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

    def _read(self, parent: Parent) -> Job:
        """The Job that trains a run once more; or that of the same run in another study, if its weights are there now."""
        key = parent.run, int(parent.seed or 0)
        if key not in self.own:
            each, plan = self._plans[parent.run]
            self.own[key] = self.study.retrained(each, plan, key[1], self._finished)
        own = self.own[key]
        return replace(own, folder=self._finished.folder(*key, own.folder, weights=True) or own.folder)

    @cached_property
    def _plans(self):
        return self.study.every_plan()

    @cached_property
    def _finished(self):
        """The runs of all studies, listed once: only few studies need it."""
        return folders.Finished(self.study.runs)


def _has_weights(job: Job) -> bool:
    """Whether a job's run is finished and its weights are there."""
    return folders.is_finished(job.folder, job.plan.identity, job.seed) and folders.has_weights(job.folder)
