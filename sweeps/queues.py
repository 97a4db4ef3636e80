"""What is to do in a study. A queue gives jobs and is told how they ended; a worker does not know which queue it serves.

    title, total              for the display: what this queue does, and how many runs it still has, roughly
    known, done               for the display: the jobs that are known already; (job, record) of runs done before
    take() -> Job | None      the next job, or None if there is none now; asked again after every outcome
    told(outcome)             how one of its jobs ended; returns the outcomes that follow from it without a run
    learns                    whether what it gives depends on how earlier jobs ended
    progressed(job, state)    how far one of its jobs is; returns whether the run is to be pruned

Drivers that share a queue (`sweeps.work`) do not `take`:

    ready()                   the jobs that could start now
    settle()                  keeps what the records of runs say that ended elsewhere
    ask()                     makes further jobs, for `ready`; returns False if there are none to make

`Runs` gives the reported runs, `sweeps.search.queue.Search` the trials of a search, `sweeps.tune.Tuning` those of tuning.
`sweeps.retraining.Retraining` stands before any of them.
"""

from experiments import evaluations
from experiments.record import RECORDS, shown
from sweeps import folders
from sweeps.job import Outcome, record_failure


class Runs:
    """Runs in the order given, each after the runs that it needs. Those that are finished and measured are reused.

    A run that fails ends the runs that need it: they cannot start, and their records say so. One whose record is removed or
    destroyed while others still need it is done again.
    """

    learns = False

    def __init__(self, title, jobs, failed=record_failure):
        """failed: records that a run cannot start (`sweeps.job.record_failure`)."""
        self.failed = failed
        trained = [job for job in jobs if folders.is_finished(job.folder, job.plan.identity, job.seed)]
        done = [job for job in trained if is_done(job)]
        self.jobs, self.done = jobs, [(job, measured(job)) for job in done]
        self.known = [job for job in jobs if job.folder not in {each.folder for each in done}]
        self.left, self.total = list(self.known), len(self.known)
        self.title = f"{title}: {self.total} of {len(jobs)} runs to do"
        self.ended = {job.folder: Outcome(job, "finished", record, reused=True) for job, record in self.done}
        # A run that is trained, but not yet measured, needs nothing more, and those that start from it can.
        self.trained = {job.folder for job in trained}
        self.by_folder = {job.folder: job for job in jobs}
        self.needs = {
            job.folder: [] if job.folder in self.trained else [need for need in job.needs if need not in self.trained]
            for job in jobs
        }

    def ready(self):
        """The Jobs that have not ended, by what was told, and whose needs are finished."""
        self._revive()
        return [job for job in self.left if all(map(self._finished, self.needs[job.folder]))]

    def take(self):
        """The next Job whose needs are finished, or None."""
        job = next(iter(self.ready()), None)
        if job:
            self.left.remove(job)
        return job

    def told(self, outcome):
        """Keep how a job ended. Returns the outcomes of the jobs that needed it, if it did not finish."""
        self.ended[outcome.job.folder] = outcome
        self.left = [job for job in self.left if job.folder != outcome.job.folder]
        if outcome.status not in ("failed", "lost"):
            return []
        ended, message = [], f"needs {outcome.job.title}, which failed"
        failure = outcome.record.failure if outcome.record else None
        machine = failure is None or failure.by_machine  # without a record: it could not even be written
        for job in [job for job in self.left if outcome.job.folder in self.needs[job.folder]]:
            self.left.remove(job)
            user = Outcome(job, "failed", self.failed(job, "NeedFailed", message, machine), message)
            ended += [user, *self.told(user)]
        return ended

    def progressed(self, job, state):
        """No reported run is pruned."""
        return False

    def settle(self):
        """Nothing: `told` hears of every end."""

    def ask(self):
        """No: all jobs are known from the start."""
        return False

    def _revive(self):
        """Put back the runs that others wait for and that are finished no more, unless they need runs that are not planned."""
        users = [job for job in self.left if job.folder not in self.trained]
        for folder in {need for job in users for need in job.needs}:
            job, ended = self.by_folder.get(folder), self.ended.get(folder)
            if not job or not ended or ended.status != "finished" or not all(need in self.by_folder for need in job.needs):
                continue
            if not folders.is_finished(folder, job.plan.identity, job.seed):
                del self.ended[folder]
                self.trained.discard(folder)
                self.left.append(job)
                self.needs |= {each.folder: each.needs for each in (job, *(user for user in users if folder in user.needs))}

    def _finished(self, folder):
        return folder in self.ended and self.ended[folder].status == "finished"

    def outcomes(self):
        """The Outcomes in the order of the jobs."""
        return [self.ended[job.folder] for job in self.jobs]


def run_record(job):
    """The record of a job's run; None if its folder has none that can be read, or that of another run."""
    record = folders.record_of(job.folder)
    return record if record and (record.identity, record.seed) == (job.plan.identity, job.seed) else None


def forget(job):
    """Remove the record of a job's run, so that the run is done again."""
    for name in RECORDS:
        (job.folder / name).unlink(missing_ok=True)


def is_done(job):
    """Whether a job's run is finished and measured. If only a measurement is missing, its worker trains nothing."""
    record = run_record(job)
    return record is not None and record.status == "finished" and not evaluations.missing(job.plan.evaluations, job.folder)


def measured(job):
    """The record of a job's finished run, with what the study measures."""
    return shown(folders.record_of(job.folder), job.folder, evaluations.files(job.plan.spec), [])
