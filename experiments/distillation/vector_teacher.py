"""A teacher whose vectors a student matches: whether it fits, what it reads, and a fixed map between their widths.

A teacher with the student's tokenizer reads its rows. Any other one reads the texts of these rows with a tokenizer of its own:
a model of ours, or any encoder that a library reads.

Shapes: B rows, F numbers of a teacher's vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor

from arch import checkpoint, digests, prompts
from arch.contracts import Dataset, Referred
from arch.cost import DTYPES
from arch.encoding import Encoder, load_encoder
from arch.errors import SpecError
from arch.layout import TokenLayout
from arch.plugins import plugin_sources
from arch.spec import digest
from arch.tokenizer import read
from experiments import costs
from experiments.data.batch import Rows
from experiments.data.draws import hashed
from experiments.distillation import estimate, library_teacher, same_tokens
from experiments.distillation.cache import check_numbered
from experiments.distillation.kept_vectors import About, KeptTeacher, Reader, one_by_one, threads_of
from experiments.distillation.library_teacher import Cost, Library, OfLibrary
from experiments.distillation.teacher import Teacher, padded, rows_at_once
from experiments.spec import TrainSpec
from experiments.start import content

# A text that is read for others is padded to a multiple of so many tokens.
WIDTHS = 16
# Options that say something of a teacher.
OPTIONS = ("teacher_dim", "projection", "distance", "precision", "cache")


def check(config: Any, spec: Any, dataset: Dataset, teacher: Referred | None) -> None:
    """Raises SpecError, at a key of `config` (of the objective `contrastive`), for a teacher that is missing or does not fit."""
    if config.teacher is None:
        for name in OPTIONS:
            if getattr(config, name) != type(config).model_fields[name].default:
                raise SpecError("there is no teacher; expected `teacher`, or none of its options", (name,))
        if config.weights.matching:
            raise SpecError("there is no teacher to match; expected `teacher`, or a weight of 0", ("weights", "matching"))
        return
    if not config.weights.matching:
        raise SpecError("nothing is learnt from it while weights.matching is 0; expected a weight above 0", ("teacher",))
    if config.cache:
        check_numbered(dataset, spec.data.source["type"])
    theirs = _width(config, spec, dataset, teacher)
    if config.teacher_dim is not None and config.teacher_dim > theirs:
        raise SpecError(f"{config.teacher_dim} is more than the {theirs} numbers of the teacher's vectors", ("teacher_dim",))
    mine, theirs = spec.model.vector_dim, config.teacher_dim or theirs
    if config.projection == "none" and mine != theirs:
        ways = [f"`model.project` that ends in {theirs}", "`projection: frozen`"]
        if theirs > mine:
            ways.insert(1, f"`teacher_dim: {mine}` for a teacher that was trained with this width")
        raise SpecError(f"its vectors have {theirs} numbers, the model's {mine}; expected {', or '.join(ways)}", ("teacher",))


def _width(config: Any, spec: Any, dataset: Dataset, teacher: Referred | None) -> int:
    """The numbers of the teacher's vectors. Raises SpecError for one that gives none, or reads neither our tokens nor texts."""
    if isinstance(config.teacher, Library):
        return config.teacher.width(config.precision)
    assert teacher is not None, "a teacher that no library reads is a run"
    width: int | None = teacher.model.vector_dim
    if width is None:
        raise SpecError(f"{teacher.name} has no `pool`, so it gives no vector of a text", ("teacher",))
    if not same_tokens.differ(dataset, teacher.tokenizer):
        same_tokens.check(spec, dataset, teacher)
    return width


def decides(config: Any, dataset: Dataset, teacher: Referred | None) -> dict[str, str]:
    """{name: sha256} of the files that say what a teacher of other tokens gives; empty for one that reads the student's tokens.

    Of a run or checkpoint, they say how it reads; its weights are known by themselves. Of one that is yet to be made, its own
    identity says it all. Of a library's, they are all of its files.
    """
    if isinstance(config.teacher, Library):
        return config.teacher.decides()
    if teacher is None or not teacher.folder or not same_tokens.differ(dataset, teacher.tokenizer):
        return {}
    return _reading_files(teacher.folder)


def _reading_files(folder: Path | str) -> dict[str, str]:
    """{name: sha256} of the files that say how a checkpoint reads a text."""
    names = (*checkpoint.TEXT_FILES, prompts.PROMPTS)
    return {name: digests.of(path) for name in names if (path := Path(folder) / name).is_file()}


def cost(config: Any, context: int, train: TrainSpec, teacher: Referred | None) -> Cost:
    """What a teacher's forward pass costs for a text of `context` tokens. train: of the run that learns from it."""
    if isinstance(config.teacher, Library):
        return config.teacher.cost(config.precision, context, train)
    assert teacher is not None, "a teacher that no library reads is a run"
    model = teacher.model
    flops = float(costs.summary(model, context, plugin_sources(model.dump()))["flops_per_token"]["ideal"]["prefill"])
    return Cost(flops, estimate.seconds(teacher, context, train, flops))


def kept_bytes(config: Any, spec: Any, dataset: Dataset, teacher: Referred | None, texts: int) -> float:
    """Bytes that the vectors of so many texts take on disk, at most."""
    return float(texts * (8 + 4 * _width(config, spec, dataset, teacher)))


def load(config: Any, folder: Path | str | None, dataset: Dataset) -> Reader | KeptTeacher:
    """The frozen teacher of `config` with weights in its precision; folder: of its checkpoint, if it has one. Raises DataError.

    Where its vectors are kept (`cache`), they are looked up.
    """
    made: Callable[[], Reader]
    if isinstance(config.teacher, Library):
        made, reads_texts = partial(OfLibrary, config.teacher, config.precision, dataset), True
        about = partial(library_teacher.about, config.teacher, config.precision)
    else:
        assert folder is not None, "a teacher that no library reads has a checkpoint"
        path = Path(folder)
        reads_texts = _reads_texts(dataset, path)
        made = partial(OfTexts.of if reads_texts else OfTokens.of, path, config.precision, dataset)
        about = partial(_about, path, config.precision, reads_texts)
    return KeptTeacher(about, _text_keys(dataset) if reads_texts else _token_keys, made) if config.cache else made()


def _reads_texts(dataset: Dataset, folder: Path) -> bool:
    """Whether the encoder in a checkpoint's folder has a tokenizer that is not the student's."""
    path = folder / checkpoint.TOKENIZER
    return path.is_file() and same_tokens.differ(dataset, read(path))


def _about(folder: Path, precision: str, reads_texts: bool, device: str) -> About:
    """What decides the vectors of a checkpoint's encoder beside what it reads: texts, or tokens."""
    model, _ = checkpoint.open_checkpoint(folder)
    files, versions = {checkpoint.WEIGHTS: content(folder)}, {"torch": str(torch.__version__)}
    if reads_texts:
        files |= _reading_files(folder)
        versions |= {"tokenizers": tokenizers.__version__}
    return About(
        files=files,
        model=digest(model),
        precision=precision,
        device=device,
        threads=threads_of(device),
        versions=versions,
        plugins=plugin_sources(model.dump()),
    )


def _token_keys(rows: Rows, kind: str) -> NDArray[np.int64]:
    """(B,): a hash of the tokens of each text; a prompt is among them, padding is not."""
    alone = _as_wide_as(rows, rows.tokens_BT.shape[1])
    return hashed(alone.tokens_BT.cpu().numpy(), alone.layout.seen_BT.cpu().numpy()).view(np.int64)


def _text_keys(dataset: Any) -> Callable[[Rows, str], NDArray[np.int64]]:
    """Of rows of a dataset: a hash of each text, and of whether it is read as a query."""

    def keys(rows: Rows, kind: str) -> NDArray[np.int64]:
        role = "query" if kind == "query" else "document"
        texts = (f"{role}\0{text}".encode() for text in dataset.written(rows.extra["text"]))
        return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), dtype=np.int64)

    return keys


class OfTokens:
    """A teacher that reads the student's rows."""

    def __init__(self, teacher: Teacher):
        self.teacher, self.model = teacher, teacher.model

    @classmethod
    def of(cls, folder: Path, precision: str, dataset: Any) -> OfTokens:
        """The one in a checkpoint's folder."""
        return cls(Teacher.load(folder, precision))

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows, on their device."""
        return self.teacher.to(rows.tokens_BT.device).vectors(rows)

    def each(self, rows: Rows, kind: str) -> Tensor:
        """As `vectors`. A text is read in rows whose width and number its own length decides: its bits depend on no other text."""
        width_B = (rows.layout.seen_BT.sum(1).clamp(min=1) + WIDTHS - 1) // WIDTHS * WIDTHS
        parts, places = [], []
        for width in width_B.unique().tolist():
            at_once = rows_at_once(rows.tokens_BT.device, width)
            for part_b in (width_B == width).nonzero()[:, 0].split(at_once):
                part = padded(_as_wide_as(rows.part(part_b), width), at_once)
                parts.append(self.vectors(part, kind)[: len(part_b)])
                places.append(part_b)
        found_BF = torch.cat(parts)
        return torch.empty_like(found_BF).index_copy_(0, torch.cat(places), found_BF)


def _as_wide_as(rows: Rows, width: int) -> Rows:
    """The texts of rows of one text each, from the first position on, in rows of `width` tokens, none of them longer."""
    length_B, tokens = rows.layout.seen_BT.sum(1), rows.tokens_BT.shape[1]
    index_BT = (rows.layout.first_B[:, None] + torch.arange(width, device=length_B.device)).clamp(max=tokens - 1)
    layout = TokenLayout.right_padded(length_B, width)
    return Rows(torch.where(layout.seen_BT, rows.tokens_BT.gather(1, index_BT), 0), layout)


class OfTexts:
    """A teacher that reads the texts of the student's rows, whole or up to its own limit, with its own tokenizer and its own
    prompts `query` and `document`; without a prompt where it has none of that name."""

    def __init__(self, encoder: Encoder, dataset: Any):
        self.encoder, self.model, self.dataset = encoder, encoder.model, dataset

    @classmethod
    def of(cls, folder: Path, precision: str, dataset: Any) -> OfTexts:
        """The one in a checkpoint's folder, for the texts of a dataset."""
        encoder = load_encoder(folder, DTYPES[precision], "cpu")
        encoder.model.requires_grad_(False).eval()
        return cls(encoder, dataset)

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the texts of rows of one kind of a batch (`query`, `positive`, `negative`), on the rows' device."""
        device, task = rows.tokens_BT.device, "query" if kind == "query" else "document"
        prompt = self.encoder.prompts.get(task, "")
        self.model.to(device)
        with torch.autocast(device.type, enabled=False):
            found = self.encoder.encode(self.dataset.written(rows.extra["text"]), prompt=prompt)
        return torch.from_numpy(found).to(device)

    def each(self, rows: Rows, kind: str) -> Tensor:
        """As `vectors`, one text after the other: the bits of each depend on no other text."""
        return one_by_one(self, rows, kind)


@lru_cache(maxsize=4)
def frozen(width: int, to: int) -> Tensor:
    """A fixed random map (width, to), the same in every run, that keeps the length of a vector on average.

    Frozen or trained, a map on the student's side works, while a trained one on the teacher's side collapses (Jina embeddings
    v5). What is trained belongs to the model, so a map that learns is the last one of `model.project`.
    """
    draws = torch.Generator().manual_seed(0)
    return torch.randn(width, to, generator=draws, dtype=torch.float32, device="cpu") * to**-0.5
