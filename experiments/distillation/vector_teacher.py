"""A teacher whose vectors a student matches: whether it fits, what it reads, and a fixed map between their widths.

A teacher with the student's tokenizer reads its rows. Any other one reads the texts of these rows with a tokenizer of its own.

Shapes: B rows, F numbers of a teacher's vector.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arch import checkpoint, digests, prompts
from arch.contracts import Dataset, Referred
from arch.cost import DTYPES
from arch.encoding import Encoder, load_encoder
from arch.errors import SpecError
from arch.tokenizer import read
from experiments.data.batch import Rows
from experiments.distillation import same_tokens
from experiments.distillation.teacher import Teacher

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
    if not same_tokens.differ(dataset, teacher.tokenizer):
        same_tokens.check(spec, dataset, teacher)
    if config.teacher_dim is not None and config.teacher_dim > theirs:
        raise SpecError(f"{config.teacher_dim} is more than the {theirs} numbers of the teacher's vectors", ("teacher_dim",))
    mine, theirs = spec.model.vector_dim, config.teacher_dim or theirs
    if config.projection == "none" and mine != theirs:
        ways = [f"`model.project` that ends in {theirs}", "`projection: frozen`"]
        if theirs > mine:
            ways.insert(1, f"`teacher_dim: {mine}` for a teacher that was trained with this width")
        raise SpecError(f"its vectors have {theirs} numbers, the model's {mine}; expected {', or '.join(ways)}", ("teacher",))


def decides(dataset: Dataset, teacher: Referred | None) -> dict[str, str]:
    """{name: sha256} of the files that say how a teacher in a folder reads texts; empty for one that reads the student's tokens.

    Of a teacher that is yet to be made, its own identity says it.
    """
    if teacher is None or not teacher.folder or not same_tokens.differ(dataset, teacher.tokenizer):
        return {}
    names = (*checkpoint.TEXT_FILES, prompts.PROMPTS)
    return {name: digests.of(path) for name in names if (path := Path(teacher.folder) / name).is_file()}


def load(folder: Path | str, precision: str, dataset: Dataset) -> OfTokens | OfTexts:
    """The frozen teacher in a checkpoint's folder, with weights in `precision`. Raises DataError."""
    path = Path(folder) / checkpoint.TOKENIZER
    if path.is_file() and same_tokens.differ(dataset, read(path)):
        encoder = load_encoder(folder, DTYPES[precision], "cpu")
        encoder.model.requires_grad_(False).eval()
        return OfTexts(encoder, dataset)
    return OfTokens(Teacher.load(folder, precision))


class OfTokens:
    """A teacher that reads the student's rows."""

    def __init__(self, teacher: Teacher):
        self.teacher, self.model = teacher, teacher.model

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows, on their device."""
        return self.teacher.to(rows.tokens_BT.device).vectors(rows)


class OfTexts:
    """A teacher that reads the texts of the student's rows, whole or up to its own limit, with its own tokenizer and its own
    prompts `query` and `document`; without a prompt where it has none of that name."""

    def __init__(self, encoder: Encoder, dataset: Any):
        self.encoder, self.model, self.dataset = encoder, encoder.model, dataset

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the texts of rows of one kind of a batch (`query`, `positive`, `negative`), on the rows' device."""
        device, task = rows.tokens_BT.device, "query" if kind == "query" else "document"
        prompt = self.encoder.prompts.get(task, "")
        self.model.to(device)
        with torch.autocast(device.type, enabled=False):
            found = self.encoder.encode(self.dataset.written(rows.extra["text"]), prompt=prompt)
        return torch.from_numpy(found).to(device)


@lru_cache(maxsize=4)
def frozen(width: int, to: int) -> Tensor:
    """A fixed random map (width, to), the same in every run, that keeps the length of a vector on average.

    Frozen or trained, a map on the student's side works, while a trained one on the teacher's side collapses (Jina embeddings
    v5). What is trained belongs to the model, so a map that learns is the last one of `model.project`.
    """
    draws = torch.Generator().manual_seed(0)
    return torch.randn(width, to, generator=draws, dtype=torch.float32, device="cpu") * to**-0.5
