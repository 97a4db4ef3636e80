"""About how long a study takes on this machine and how much disk it fills, before anything runs.

A step of the first arm of each precision is timed on random tokens (of a task: on its rows; of an encoder: on pairs of texts), for
about a second, and kept in the cache folder. Other arms of that precision are taken to compute as many FLOPs a second. Starting a
process, reading texts and a machine that is busy with other work come on top.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from arch import registry, units
from arch.spec import digest
from arch.words import listed, times
from experiments import device, evaluations, precision
from experiments.costs import kept
from experiments.data.cache import root
from experiments.data.dataset import gives_rows, prepare
from experiments.spec import ExperimentSpec, TrainSpec
from sweeps import paces
from sweeps.arms import Arm
from sweeps.pool import cores

# Steps before the timed ones; then so many, or until they took so long.
WARM_UP, FEWEST, SECONDS = 1, 2, 1.0
# A step of more FLOPs takes minutes on a CPU: no estimate is worth waiting for it.
LARGEST_STEP = 2e12
# Bytes of a parameter while it trains: weight, gradient, two moments. All of it must fit beside the activations.
TRAINING_BYTES = 16
# Bytes of a run beside its weights: history, events, evaluations, tokenizer.
BESIDE = 300_000
# A pass forward and one backward compute three times what a forward pass does.
FORWARD = 1 / 3


@dataclass(frozen=True)
class Estimate:
    """seconds: {arm: of one of its runs}. total: of the whole study with so many workers; None where nothing was timed.

    why: why not. disk: bytes of the runs when all are done.
    """

    seconds: dict[str, float]
    total: float | None
    workers: int
    why: str
    disk: float

    @property
    def words(self) -> str:
        """`about 12 min with 2 workers (a step of 1:1 was timed), 42 MB of disk`."""
        disk = f"{units.size(self.disk)} of disk"
        if self.total is None:
            return f"{disk}; no estimate of the time: {self.why}"
        return f"about {units.duration(self.total)} with {times(self.workers, 'worker')} ({self.why}), {disk}"


def estimate(data: dict[str, Any], arms: Iterable[Arm]) -> Estimate:
    """The Estimate of a study from its preview (`sweeps.show.preview`), with as many workers as the cores allow.

    The Estimate of the time is None where the machine of this study is not there, or one step would take long.
    """
    by_label: dict[str, Arm] = {}
    waiting = list(arms)
    while waiting:  # the runs that an arm needs, too
        arm = waiting.pop(0)
        if by_label.setdefault(arm.label, arm) is arm:
            waiting += arm.needs.values()
    shown = {**data["arms"], **data["helpers"]}
    runs = {label: len(data["seeds"]) for label in data["arms"]}
    for label, helper in data["helpers"].items():
        runs[label] = runs.get(label, 0) + len(helper["seeds"])
    disk = sum(number * _kept(shown[label]) for label, number in runs.items())
    first = by_label[next(iter(data["arms"]))]
    workers = 1 if data["times"] else _workers([each.spec for each in by_label.values()], sum(runs.values()))
    timed: dict[tuple[str, ...], Arm] = {}
    for arm in by_label.values():
        timed.setdefault(_precision(arm), arm)
    rates: dict[tuple[str, ...], float] = {}
    for kind, arm in timed.items():
        rate, why = _rate(arm, shown[arm.label])
        if rate is None:
            return Estimate({}, None, workers, why, disk)
        rates[kind] = rate
    work = {label: each["training_flops"] + _measuring(by_label[label].spec, each) for label, each in shown.items()}
    seconds = {label: flops / rates[_precision(by_label[label])] for label, flops in work.items()}
    search = data["total"]["tuning"]["training_flops"] / rates[_precision(first)]
    total = (sum(seconds[label] * number for label, number in runs.items()) + search) / workers
    said = [repr(arm.label) for arm in timed.values()]
    why = f"a step of {said[0]} was timed" if len(said) == 1 else f"a step of each of {listed(said)} was timed"
    return Estimate(seconds, total, workers, why, disk)


def _precision(arm: Arm) -> tuple[str, ...]:
    return arm.spec.train.precision, arm.spec.train.products


def _workers(specs: list[ExperimentSpec], runs: int) -> int:
    if any(spec.train.accelerator != "cpu" for spec in specs):
        return 1
    return max(1, min(runs, cores() // max(spec.train.threads * spec.train.shares for spec in specs)))


def _kept(shown: dict[str, Any]) -> float:
    """Bytes of a finished run."""
    return 4 * shown["parameters"] + BESIDE + shown["objective"].get("disk_bytes", 0)


def _measuring(spec: ExperimentSpec, shown: dict[str, Any]) -> float:
    """FLOPs of a run's evaluations, as far as they say how many they compute, or how many rows they read."""
    a_row = _texts(spec) * FORWARD * shown["flops_per_token"]["executed"] * spec.data.context
    often = {"select": spec.train.steps // spec.evaluate.every, "report": 1}
    total = 0.0
    for each in evaluations.planned(spec):
        evaluator = registry.build("evaluator", each.evaluator)
        if hasattr(evaluator, "flops"):
            total += often[each.split] * evaluator.flops(spec.model, spec.data.rows, spec.data.context)
        else:
            total += often[each.split] * a_row * (each.evaluator.get("rows") or 0)
    return total


def _rate(arm: Arm, shown: dict[str, Any]) -> tuple[float | None, str]:
    """(executed training FLOPs a second of an arm on this machine, "") or (None, why it was not measured)."""
    train = arm.spec.train
    if train.accelerator != "cpu" and not (train.accelerator == "gpu" and torch.cuda.is_available()):
        return None, f"train.accelerator is {train.accelerator}, which this machine does not have"
    a_row = _texts(arm.spec) * shown["flops_per_token"]["executed"] * arm.spec.data.context
    step = a_row * arm.spec.data.rows // (train.accumulate * train.shares)
    if train.accelerator == "cpu" and step > LARGEST_STEP:
        return None, f"a step of {units.flops(step)} takes too long to be timed"
    if train.accelerator == "cpu" and TRAINING_BYTES * shown["parameters"] > device.free_bytes() / 2:
        return None, "the model does not fit in memory"
    return _calibrated(arm, lambda: step / _step_seconds(arm.spec)), ""


def _texts(spec: ExperimentSpec) -> int:
    """How many texts a row has: an encoder learns from pairs."""
    return 1 if spec.model.pool is None else 2


def _calibrated(arm: Arm, measure: Callable[[], float]) -> float:
    about = {"pace": paces.key(arm), "hardware": device.hardware(), "torch": torch.__version__}
    on = "rows" if _is_computed(arm.spec) else "random" if arm.spec.model.pool is None else "pairs"
    file = root() / paces.FOLDER / f"{on}-{digest(about)}.json"
    return kept(file, lambda: {"flops_per_second": measure()})["flops_per_second"]


def _is_computed(spec: ExperimentSpec) -> bool:
    """Whether the rows are computed (a task's) and not read."""
    return gives_rows(registry.component("source", spec.data.source["type"])) and spec.data.tokenizer is None


def _step_seconds(spec: ExperimentSpec) -> float:
    """The median time of a micro-batch's step with AdamW, on random tokens, on the rows of a task, or on pairs of random texts.

    Where a task scores few positions, no step computes the head at the others, whatever the count of FLOPs says. A model that
    encodes has none: its step compares the vectors of two texts per row.
    """
    from experiments.bench.sides import Ours, contrastive_objective

    rows = max(1, spec.data.rows // (spec.train.accumulate * spec.train.shares))
    place = torch.device("cuda" if spec.train.accelerator == "gpu" else "cpu")
    dtype = "bfloat16" if spec.train.precision == "bf16-true" else "float32"
    before = torch.get_num_threads()
    torch.set_num_threads(spec.train.threads)
    try:
        encodes = spec.model.pool is not None
        side = Ours(spec.model, place, dtype, objective=contrastive_objective() if encodes else None)
        if encodes:
            step = side.training_on_pairs(rows, spec.data.context, 1)
        elif _is_computed(spec):
            batch = prepare(spec.data, spec.model.vocab_size).batch("train", 0, 0, rows, spec.data.context)
            step = side.training_on(batch.to(place))
        else:
            step = side.training(rows, spec.data.context)
        return statistics.median(_timed(partial(_within, spec.train, step), place, spec.train.threads))
    finally:
        torch.set_num_threads(before)


def _within(train: TrainSpec, step: Callable[[], None]) -> None:
    with precision.scope(train):
        step()


def _timed(step: Callable[[], None], place: torch.device, threads: int) -> list[float]:
    took: list[float] = []
    while len(took) < WARM_UP + FEWEST or sum(took[WARM_UP:]) < SECONDS:
        began, busy = time.perf_counter(), time.process_time()
        step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
        if place.type == "cpu":  # what other programs take of the cores is no property of this machine
            took[-1] = min(took[-1], (time.process_time() - busy) / threads)
    return took[WARM_UP:]
