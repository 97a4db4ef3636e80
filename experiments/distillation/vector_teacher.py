"""A teacher whose vectors a student matches: whether it fits, and a fixed map between their widths."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from arch.contracts import Dataset, Referred
from arch.errors import SpecError
from experiments.distillation import same_tokens

# Options that say something of a teacher.
OPTIONS = ("teacher_dim", "projection", "distance", "precision")


def check(config: Any, spec: Any, dataset: Dataset, teacher: Referred | None) -> None:
    """Raises SpecError, at a key of `config` (of the objective `contrastive`), for a teacher that is missing or does not fit."""
    if teacher is None:
        for name in OPTIONS:
            if getattr(config, name) != type(config).model_fields[name].default:
                raise SpecError("there is no teacher; expected `teacher`, or none of its options", (name,))
        if config.weights.matching:
            raise SpecError("there is no teacher to match; expected `teacher`, or a weight of 0", ("weights", "matching"))
        return
    if not config.weights.matching:
        raise SpecError("nothing is learnt from it while weights.matching is 0; expected a weight above 0", ("teacher",))
    if (theirs := teacher.model.vector_dim) is None:
        raise SpecError(f"{teacher.name} has no `pool`, so it gives no vector of a text", ("teacher",))
    same_tokens.check(spec, dataset, teacher)
    if config.teacher_dim is not None and config.teacher_dim > theirs:
        raise SpecError(f"{config.teacher_dim} is more than the {theirs} numbers of the teacher's vectors", ("teacher_dim",))
    mine, theirs = spec.model.vector_dim, config.teacher_dim or theirs
    if config.projection == "none" and mine != theirs:
        ways = [f"`model.project` that ends in {theirs}", "`projection: frozen`"]
        if theirs > mine:
            ways.insert(1, f"`teacher_dim: {mine}` for a teacher that was trained with this width")
        raise SpecError(f"its vectors have {theirs} numbers, the model's {mine}; expected {', or '.join(ways)}", ("teacher",))


@lru_cache(maxsize=4)
def frozen(width: int, to: int) -> Tensor:
    """A fixed random map (width, to), the same in every run, that keeps the length of a vector on average.

    Frozen or trained, a map on the student's side works, while a trained one on the teacher's side collapses (Jina embeddings
    v5). What is trained belongs to the model, so a map that learns is the last one of `model.project`.
    """
    draws = torch.Generator().manual_seed(0)
    return torch.randn(width, to, generator=draws, dtype=torch.float32, device="cpu") * to**-0.5
