"""The same jobs on Optuna's built-in heartbeat: `Study.optimize`, a stale trial is failed and queued again by its callback.

It is what a study gets that leaves leases to Optuna 5.0. `chaos.py --engine heartbeat` shows what it loses.
"""

import time
import warnings
from pathlib import Path

import chaos
import dummy

from arch.errors import SpecError
from sweeps import folders, storage
from sweeps.queue_rows import Row


def driver(jobs, url):
    """drive(number) of Optuna: all jobs are queued before any driver starts, and `optimize` does them in its process."""
    import optuna

    warnings.simplefilter("ignore")
    by_run = {f"{job.folder.parent.name}/{job.folder.name}": job for job in jobs}
    study, opened = _study(url)
    for run in by_run:
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.WAITING, user_attrs={"run": run}))
    storage.close(opened)

    def drive(number):
        study, _ = _study(url)

        def objective(trial):
            run = trial.user_attrs.get("run")
            if run is None:
                time.sleep(0.2)
                if all(_is_done(job) for job in jobs):
                    study.stop()
                raise optuna.TrialPruned
            job = by_run[run]
            while not all(_is_finished(need) for need in job.needs):
                time.sleep(0.1)
            job.folder.mkdir(parents=True, exist_ok=True)
            dummy.train(job.dump(), lambda state: None, lambda: None)
            return 0.0

        study.optimize(objective)
        return 0

    return drive


def rows(url):
    """The trials at the end, as Rows; those that Optuna made up are left out."""
    found = []
    for trial in _study(url)[0].get_trials(deepcopy=False):
        run = trial.user_attrs.get("run")
        if run is not None:
            found.append(Row(trial.number, trial.state.name, run, None, run, None, ""))
    return found


def _study(url):
    import optuna

    if not url.startswith("postgresql"):
        raise SpecError("Optuna's heartbeat needs a database", file="--storage")
    full = url.replace("{", "{{").replace("}", "}}")
    callback = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=None)
    storage.close(storage.opened(url))
    kept = optuna.storages.RDBStorage(
        full,
        engine_kwargs={"pool_pre_ping": True},
        heartbeat_interval=1,
        grace_period=int(chaos.LEASE),
        heartbeat_stale_trial_callback=callback,
    )
    sampler = optuna.samplers.RandomSampler()
    return optuna.create_study(study_name="heartbeat", storage=kept, load_if_exists=True, sampler=sampler), kept


def _is_finished(folder):
    record = folders.record_of(Path(folder))
    return record is not None and record.status == "finished"


def _is_done(job):
    return _is_finished(job.folder)
