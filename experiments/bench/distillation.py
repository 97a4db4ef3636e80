"""Distillation beside what it adds to: online steps, steps from the cache, and the cache's writing, with random weights.

All sides run in turns, so that each ratio is of one round.
"""

import itertools
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from arch import checkpoint, tensors
from arch.cost import DTYPES
from arch.model import new_model
from experiments.bench.kernels import shipped
from experiments.bench.sides import Ours, whole_rows
from experiments.data.cache import VARIABLE
from experiments.distillation import cache
from experiments.distillation.teacher import Teacher
from experiments.objectives.distill import Distill

# A teacher of five times the student's size beside its embeddings, a vocabulary between those of small studies and Gemma's.
VOCABULARY, CONTEXT, ROWS, K = 16_384, 512, 2, 256
TEACHER = {"dim": 384, "layers": 12, "blocks.local.ffn.hidden": 1536}


class RandomRows:
    """A dataset whose row n has random tokens, drawn for n."""

    fingerprint, vocabulary, tokenizer = "random rows", VOCABULARY, None

    def numbers(self, split, steps, seed, rows, context):
        return np.arange(steps * rows)

    def numbered(self, split, numbers, context):
        drawn = [torch.randint(VOCABULARY, (context,), generator=torch.Generator().manual_seed(int(n))) for n in numbers]
        batch = whole_rows(torch.stack(drawn))
        batch["text"].key_B = torch.as_tensor(numbers)
        return batch


def distillation(journal, bench_spec, device):
    """Time the sides: `plain` and `online` (mode full) and `cached` training steps; `prefill`, the teacher's forward pass with
    the logits of all positions, on the same tokens; and `write`, the same tokens into the cache, by mode."""
    student = shipped("small/gemma3", vocab_size=VOCABULARY)
    teacher = shipped("small/gemma3", vocab_size=VOCABULARY, **TEACHER)
    with _own_cache() as folder:
        path = folder / "teacher of the benchmark"
        path.mkdir()
        model = new_model(teacher, seed=1)
        checkpoint.write(teacher, tensors.of_mapping(dict(model.named_parameters())), path)
        dataset = RandomRows()
        objectives = {
            "plain": None,
            "online": _objective(path, dataset, bench_spec.dtype),
            "cached": _objective(path, dataset, bench_spec.dtype, mode="sampled", k=K, cache=True),
        }
        objectives["cached"].begin(_reading(dataset, device))
        batch = dataset.numbered("train", np.arange(ROWS), CONTEXT).to(device)
        sides = {
            name: Ours(student, device, bench_spec.dtype, objective=each).training_on(batch) for name, each in objectives.items()
        }
        frozen = Teacher(model.to(device, DTYPES[bench_spec.dtype]).requires_grad_(False).eval())
        sides["prefill"] = lambda: _prefill(frozen.model, batch["text"])
        for mode in ("sampled", "top_k"):
            sides[f"write {mode}"] = _writing(_objective(path, dataset, bench_spec.dtype, mode=mode, k=K), frozen, dataset, device)
        case = {"vocabulary": VOCABULARY, "k": K, "context": CONTEXT}
        journal.time("distill", sides, case, ROWS * CONTEXT, "tokens")


def _objective(path, dataset, dtype, **options):
    return Distill(Distill.Config(teacher=str(path), precision=dtype, **options), dataset, {"teacher": path})


def _reading(dataset, device):
    from arch.contracts import Reading

    return Reading(dataset, 0, 1, ROWS, CONTEXT, device, lambda *told: None)


@torch.no_grad()
def _prefill(model, rows):
    model(rows.tokens_BT, rows.layout)


def _writing(objective, teacher, dataset, device):
    """A function that writes ROWS further rows into a cache of their own."""
    about = objective.about(CONTEXT)
    written, first = cache.Cache(about.model_copy(update={"data": "rows of the benchmark"})), itertools.count(step=ROWS)

    def compute(numbers):
        rows = dataset.numbered("train", numbers, CONTEXT)["text"]
        return rows, teacher.kept(rows.to(device), about.keeping)

    return lambda: written.fill(np.arange(ROWS) + next(first), compute, lambda *told: None)


@contextmanager
def _own_cache():
    """A temporary cache folder."""
    before = os.environ.get(VARIABLE)
    with tempfile.TemporaryDirectory(prefix="archbench-") as folder:
        os.environ[VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before
