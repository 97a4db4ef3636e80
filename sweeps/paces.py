"""How long a training step of an arm takes on this machine: measured once, before the study's own runs, and kept.

A study's record keeps the seconds that decided its steps; a cache folder keeps them for other studies on the same machine.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from arch.errors import DataError
from arch.plugins import plugin_sources
from arch.spec import digest
from experiments.files import write_atomically
from sweeps.arms import Arm
from sweeps.record import StudyRecord

FOLDER = "paces"
# The first steps of a process are slower; then at least so many, until they took so long or are the most.
WARM_UP, FEWEST, SECONDS, MOST = 3, 8, 2.0, 40
SEED = 0


def key(arm: Arm) -> str:
    """Digest of what decides how long an arm's step takes: shapes, rows, objective, optimizer, threads; no rate, no steps."""
    spec = arm.spec.dump(identity=True)
    model = {name: value for name, value in spec["model"].items() if name != "init"}
    decides: dict[str, Any] = {"model": model, "objective": spec["objective"], "optimizer": spec["optimizer"]["type"]}
    decides |= {"data": spec["data"], "train": {name: value for name, value in spec["train"].items() if name != "steps"}}
    decides["needs"] = {str(position): key(need) for position, need in arm.needs.items()}
    return digest({**decides, "plugins": plugin_sources(decides)})


def known(folder: Path, arms: Iterable[Arm]) -> dict[str, float]:
    """{key: seconds of a step} of these arms: as the record in the study's folder says, else from the cache of this machine."""
    record = StudyRecord.read_whole(folder)
    kept = {each.pace: each.step_seconds for each in (record.budget if record else ()) if each.step_seconds}
    found = {}
    for pace in map(key, arms):
        seconds = kept.get(pace) or _cached(pace)
        if seconds:
            found[pace] = seconds
    return found


def measured(arms: Iterable[Arm], say: Callable[[str], None]) -> dict[str, float]:
    """{key: seconds of a step} of these arms, one after the other in a worker of its own, and into the cache.

    Every step is a real one: its rows, the objective with its teacher (whose weights need not be trained), the update. Raises
    DataError for an arm that cannot be trained, KeyboardInterrupt when interrupted.
    """
    from sweeps.pool import Pool

    distinct: dict[str, Arm] = {}
    for arm in arms:
        distinct.setdefault(key(arm), arm)
    found: dict[str, float] = {}
    for number, (pace, arm) in enumerate(distinct.items(), 1):
        say(f"measuring a step, {number} of {len(distinct)}: arm {arm.label!r}")
        with tempfile.TemporaryDirectory(prefix="archbench-") as scratch, Pool(1, timer, Path(scratch)) as pool:
            jobs, ended = iter(_jobs(arm, Path(scratch))), list[Any]()
            pool.run(lambda jobs=jobs: next(jobs, None), lambda event, ended=ended: ended.append(event.outcome))
        ended = [outcome for outcome in ended if outcome]
        for outcome in ended:
            if outcome.status != "finished":
                raise DataError(f"arm {arm.label!r}: no step could be measured: {outcome.message or outcome.status}", key=None)
        found[pace] = ended[-1].record.timing["step_seconds"]
        say(f"arm {arm.label!r}: {found[pace]:.4g} s per step")
        _keep(pace, found[pace])
    return found


def _jobs(arm: Arm, scratch: Path) -> list[Any]:
    """The Jobs of a measurement: the runs that the arm needs, with weights as they are drawn, then its own."""
    from arch import document
    from experiments import plan as experiment
    from experiments import references
    from experiments.spec import EvaluateSpec
    from sweeps.job import Job

    jobs: list[Job] = []
    places: dict[tuple[str, int], Path] = {}
    nothing = EvaluateSpec(every=10**9, select={}, report={})

    def add(each: Arm, seed: int, changes: Mapping[str, int]) -> experiment.RunPlan:
        made = {}
        for position, need in each.needs.items():
            reference = references.of(each.spec)[position].reference
            rule: Any = getattr(reference, "seed", "same")
            made[position] = add(need, seed if rule == "same" else rule, {"train.steps": 0})
        plan = experiment.plan(document.overridden(each.document, document.node(dict(changes))), made)
        located = plan.located(seed, places)
        located = located.model_copy(update={"spec": located.spec.model_copy(update={"evaluate": nothing}), "evaluations": ()})
        folder = places.setdefault((plan.identity, seed), scratch / str(len(places)))
        jobs.append(Job(each.label, seed, located, folder))
        return plan

    add(arm, SEED, {"train.steps": WARM_UP + MOST + 2})
    return jobs


def timer(threads: int) -> Callable[..., dict[str, Any]]:
    """The `prepare` of a worker that measures steps (see `sweeps.worker.trainer`); a run of no steps is just made."""
    from experiments import device

    device.setup(threads)
    from experiments.data import texts
    from experiments.orders import ABANDON
    from experiments.train import train
    from sweeps.job import Job

    def timed(data: dict[str, Any], progress: Any, stop: Callable[[], str | None]) -> dict[str, Any]:
        job = Job.parse({name: value for name, value in data.items() if name != "runs_at_once"})
        texts.remember(job.plan.texts)
        ends: list[float] = []
        preparing = False

        def told(said: dict[str, Any]) -> None:
            nonlocal preparing
            preparing = "preparing" in said and said["done"] < said["total"]
            progress(said)

        def enough() -> str | None:
            if preparing:  # what is asked for then is no step
                return stop()
            ends.append(time.perf_counter())
            steps = len(ends) - 1 - WARM_UP
            done = steps >= FEWEST and (steps >= MOST or ends[-1] - ends[WARM_UP] >= SECONDS)
            return stop() or (ABANDON if done else None)

        record = train(job.plan, job.seed, job.folder, told, enough)
        if record.status == "interrupted" and len(ends) - 1 - WARM_UP >= FEWEST:
            steps = [after - before for before, after in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
            timing = {"step_seconds": statistics.median(steps)}
            record = record.model_copy(update={"status": "finished", "timing": timing})
        return record.dump()

    return timed


def _file(pace: str) -> Path:
    import torch

    from experiments import device
    from experiments.costs import sources
    from experiments.data.cache import root

    about = {"pace": pace, "hardware": device.hardware(), "torch": torch.__version__, "arch": sources()}
    return root() / FOLDER / f"{digest(about)}.json"


def _cached(pace: str) -> float | None:
    with suppress(OSError, ValueError, KeyError):
        return float(json.loads(_file(pace).read_text())["step_seconds"])
    return None


def _keep(pace: str, seconds: float) -> None:
    file = _file(pace)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"step_seconds": seconds}).encode())
