"""The workers of a study, and how they do the jobs of a queue: alone, or together with other drivers."""

from functools import partial

from experiments.orders import ABANDON, PRUNE
from sweeps.job import Event, record_failure
from sweeps.pool import Pool, worker_count
from sweeps.table import display


class Workers:
    """One pool for tuning and reported runs, created for the first job. With nothing to do, no pool is created."""

    def __init__(self, sample, asked, prepare, logs, folder, shared=None, again=False, gpus=None):
        """sample: jobs like those to come, which say how many cores a run takes. shared: the SharedQueue of several drivers."""
        self.sample, self.asked, self.prepare, self.logs, self.pool = sample, asked, prepare, logs, None
        self.folder, self.shared, self.again, self.gpus = folder, shared, again, gpus

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.pool:
            self.pool.close()

    @property
    def failed(self):
        """Records that a run cannot start. Where other drivers may do the same run, a record that is there stays."""
        return partial(record_failure, replaces=False) if self.shared else record_failure

    def sized(self, total):
        """The pool, sized for `total` jobs."""
        size = worker_count(self.sample, self.asked, total, devices=self.gpus)
        if self.pool is None:
            self.pool = Pool(size, self.prepare, self.logs, retries=self.shared is None, devices=self.gpus)
        self.pool.size = size
        return self.pool


def do_jobs(queue, pools, console):
    """Do every job of a queue."""
    if pools.shared:
        _together(queue, pools, console)
        return
    first = queue.take()
    if first is None:
        return
    ahead, pool = [first], pools.sized(queue.total)
    with display(console, f"{queue.title}, {pool.size} worker(s)", queue.known or [first], queue.done, queue.total) as show:

        def report(event):
            show(event)
            if event.kind == "progress" and queue.progressed(event.job, event.progress):
                pool.tell(event.job, PRUNE)
            if event.outcome:
                for outcome in queue.told(event.outcome):
                    show(Event("ended", outcome.job, outcome=outcome))

        pool.run(lambda: ahead.pop() if ahead else queue.take(), report)


def _together(source, pools, console):
    """Do the jobs of a queue that other drivers do as well, until all of them have ended."""
    from sweeps.work import Shared, forgive

    if pools.again:
        forgive(source.known)
    shared = Shared(source, pools.shared, pools.folder)
    if not shared.tick():
        return
    pool = pools.sized(max(1, source.total))
    shared.abandon = lambda job: pool.tell(job, ABANDON)
    title = f"{source.title}, {pool.size} worker(s), storage shared with other drivers"
    with display(console, title, source.known, source.done, source.total) as show:

        def drain():
            while shared.events:
                show(shared.events.pop(0))

        def report(event):
            if event.outcome:
                shared.told(event.outcome)
                drain()
                return
            if event.kind == "progress" and shared.progress(event.job, event.progress):
                pool.tell(event.job, PRUNE)
            show(event)

        def tick():
            going = shared.tick()
            drain()
            return going

        drain()
        try:
            pool.run(shared.take, report, tick)
        finally:
            shared.leave()
