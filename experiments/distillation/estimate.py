"""About how long a teacher's forward pass takes, before it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from arch.contracts import Referred
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.record import RunRecord
from experiments.spec import TrainSpec

# A teacher that is not trained yet is tried out if one row takes no more FLOPs: a second or so on two cores.
TRIED_FLOPS = 5e10
# So many rows at once, if they take no more than that: of a small teacher, a row that is read alone takes up to four times as long.
TRIED_ROWS = 8


def seconds(teacher: Referred, context: int, train: TrainSpec, flops_per_token: float) -> float | None:
    """Seconds per token of the teacher's forward pass with rows of `context` tokens; None if it is not known.

    From the teacher's record, if it has one: a training step is a forward pass and a backward pass of twice its FLOPs. Else,
    for a run on a CPU, some rows are timed with random weights, unless that takes long. train: of the run that learns from it.
    """
    record = RunRecord.read_whole(Path(teacher.folder)) if teacher.folder else None
    speed = record.measured.get("speed/tokens_per_second") if record else None
    if speed:
        texts = 1 if teacher.model.pool is None else 2  # of a row, of which the speed counts one
        return 1 / (3 * texts * speed)
    if train.accelerator != "cpu" or flops_per_token * context > TRIED_FLOPS:
        return None
    rows = int(min(TRIED_ROWS, max(1, TRIED_FLOPS // (flops_per_token * context))))
    return _tried(json.dumps(teacher.model.dump()), rows, context, train.threads)


@lru_cache(maxsize=64)
def _tried(model: str, rows: int, context: int, threads: int) -> float:
    """Seconds per token of the faster of two forward passes of so many rows."""
    teacher = new_model(ModelSpec.parse(json.loads(model)), seed=0).eval()
    tokens_BT = torch.zeros(rows, context, dtype=torch.long)

    def once() -> None:
        with torch.no_grad():
            if teacher.pool is None:
                teacher(tokens_BT)
            else:
                teacher.vectors(tokens_BT, TokenLayout.whole(rows, context))

    return faster_of_two(once, threads) / (rows * context)


def faster_of_two(once: Callable[[], object], threads: int) -> float:
    """Seconds of the faster of two calls, with so many threads."""
    before, passes = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for _ in range(2):
            started = time.perf_counter()
            once()
            passes.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return min(passes)
