"""Contrastive learning of an encoder from pairs of texts (EmbeddingGemma, arXiv 2509.20354, section 2.2).

Shapes: B rows, each a query, a positive and maybe a hard negative; G rows of all ranks; E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from arch.contracts import Dataset, Mean, Metric, Reading, Referred
from arch.errors import DataError, SpecError
from arch.kernels.contrastive import Distance, matching, nce, nearest, same_texts, spread_out
from arch.model import Model
from arch.plugins import plugin_sources
from arch.registry import objective
from arch.spec import Count, List, Positive, Spec, later, place
from experiments import costs, grad_cache, ranks
from experiments.data.batch import Batch
from experiments.distillation import vector_teacher
from experiments.distillation.kept_vectors import KeptTeacher
from experiments.distillation.library_teacher import RunOrLibrary
from experiments.distillation.teacher import TOKENS
from experiments.grad_cache import GradCache, Vectors
from experiments.spec import Folder

NotNegative = Annotated[float, Field(ge=0)]
Terms = dict[str, Tensor]  # {metric: (B,)}
TEACHER = "teacher"  # in `Rows.extra`: the teacher's vectors


class Weights(Spec):
    """The weight of each term in the loss. A term of weight 0 is not computed.

    nce: of the contrastive loss. spread_out: of the second moment of queries and of positives. matching: of the distance from
    a teacher's vectors.
    """

    nce: NotNegative = 1.0
    spread_out: NotNegative = 1.0
    matching: NotNegative = 0.0

    @model_validator(mode="after")
    def _something_counts(self):
        if not any(self.dump().values()):
            raise ValueError("all weights are 0, so there is no loss; expected one above 0")
        return self


def _distinct(dims):
    if len(set(dims)) < len(dims):
        raise ValueError(f"expected each width once, got {', '.join(map(str, dims))}")
    return dims


@objective
class Contrastive(nn.Module):
    """loss = nce L_C + spread_out L_S + matching L_D, each a mean over the rows of a step, and each a metric without its weight.

    L_C: `arch.kernels.contrastive.nce`. L_S: `spread_out` of the queries and of the positives. Both are summed over the widths
    of `dims`, the first so many numbers of each vector (Matryoshka). L_D: `matching` of the whole vectors of queries, positives
    and hard negatives to those of a frozen teacher.

    The other rows of a step are its negatives: of all micro-batches and all devices. With several of either, GradCache makes
    that exact (`experiments.grad_cache`), so `train.accumulate` bounds the memory and changes the result only by rounding.
    Where a split is evaluated, the negatives are the other rows of an evaluated batch, which has as many rows as a step of
    training; the last one may have fewer. A row that is alone in its batch counts for nothing.
    """

    class Config(Spec):
        """temperature: what cosines are divided by. hardness: alpha in the weight e^(alpha cosine) of a hard negative.

        dims: widths to which vectors are cut, the model's own among them; empty for that alone. weights: of the terms.
        teacher: a run or a checkpoint's folder, of a model with a pool; with a tokenizer of its own it reads the texts, with its
        own prompts `query` and `document`. `{sentence_transformers: FOLDER}` is any encoder that this library reads (extra
        `embedding`). teacher_dim: the first so many numbers of its vectors,
        for one that was trained with this width; null for all. projection: what makes the widths of both equal: `none`, or
        `frozen`, a fixed random map of the student's vectors. distance: from the teacher's vectors, `l2` (squared) or `cosine`.
        precision: of the teacher's weights. cache: keep its vectors on disk, so that it reads each text once for all runs.
        """

        temperature: Positive = 0.05
        hardness: NotNegative = 5.0
        dims: Annotated[List[Count], AfterValidator(_distinct)] = ()
        weights: Weights = Weights()
        teacher: Folder | RunOrLibrary | None = place(None)
        teacher_dim: Count | None = None
        projection: Literal["none", "frozen"] = "none"
        distance: Distance = "l2"
        precision: Literal["float32", "bfloat16"] = "float32"
        cache: bool = later(False)

    needs = frozenset({"encodes", "pairs"})
    runs = ("teacher",)
    # accuracy: how often the positive is nearer to its query than those of the other rows.
    metrics = {
        "loss": Metric(),
        "nce": Metric(unit="nats"),
        "spread_out": Metric(),
        "matching": Metric(),
        "accuracy": Metric(better="higher"),
    }

    def __init__(self, config: Config, dataset: Dataset, runs: Mapping[str, Path] | None = None):
        """runs: {"teacher": the folder of its checkpoint}, if there is one. It is read when it is first needed."""
        super().__init__()
        self.config, self.dataset, self.folder, self.cache = config, dataset, (runs or {}).get("teacher"), GradCache()

    @cached_property
    def teacher(self) -> vector_teacher.Reader | KeptTeacher:
        """The frozen teacher. It is no submodule, so it is in no checkpoint and nothing trains it."""
        return vector_teacher.load(self.config, self.folder, self.dataset)

    def begin(self, reading: Reading) -> None:
        """Keep the teacher's vectors of all that the run will read, if they are kept."""
        if self.config.cache:
            assert isinstance(self.teacher, KeptTeacher)
            self.teacher.begin(reading)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Adds the teacher's vectors; in training with several micro-batches or devices, also what GradCache's first pass gives."""
        if self.config.weights.matching:
            for kind, rows in batch.items():
                rows.extra[TEACHER] = self.teacher.vectors(rows, kind)[:, : self.config.teacher_dim]
        if self.training and (batch.parts > 1 or ranks.several()):
            self._fill(model, batch)
        return batch

    def _fill(self, model: Model, batch: Batch) -> None:
        """The gradient of every vector, and the terms of every row, from the vectors of all ranks."""
        same_GG, own = _same(batch, ranks.stacked), ranks.share(batch.rows)
        found: list[tuple[str, Tensor]] = []

        def losses(every: Vectors) -> Iterator[Tensor]:
            weights = self.config.weights.dump()
            for name, term_G in self._between(every, same_GG):
                found.append((name, term_G.detach()[own]))
                if name in weights:
                    yield weights[name] * term_G.sum()
            for name, term_B in self._to_teacher({kind: x_GE[own] for kind, x_GE in every.items()}, batch).items():
                found.append((name, term_B.detach()))
                yield weights[name] * term_B.sum()

        self.cache.fill(model, batch, losses)
        batch["query"].extra |= _summed(found)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The metrics whose term has a weight, of these rows; of GradCache's second pass, those that the first pass found."""
        if grad_cache.is_filled(batch):
            extra = batch["query"].extra
            terms = {name: extra[name] for name in self.metrics if name in extra}
            pull = grad_cache.pulled(self.cache.again(model, batch), batch)
            loss = grad_cache.valued(self._weighted(terms).sum(), pull)
        else:
            vectors = grad_cache.vectors(model, batch) if torch.is_grad_enabled() else _in_pieces(model, batch)
            terms = _summed(self._between(vectors, _same(batch))) | self._to_teacher(vectors, batch)
            if batch.rows == 1:
                terms = {name: term_B[:0] for name, term_B in terms.items()}
            loss = self._weighted(terms).sum()
        return {"loss": Mean(loss, len(terms["accuracy"]))} | {
            name: Mean(term_B.detach().sum(), len(term_B)) for name, term_B in terms.items()
        }

    def _weighted(self, terms: Terms) -> Tensor:
        """(B,): the loss of each row from its terms; () of zeros where none of them has a weight."""
        weights = self.config.weights.dump()
        parts = [weights[name] * term_B for name, term_B in terms.items() if name in weights]
        return torch.stack(parts).sum(0) if parts else torch.zeros(())

    def _between(self, vectors: Vectors, same_BB: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields (term, (B,)) of what depends on other rows: nce and spread_out, width by width, to be summed; and accuracy.

        A term has B x B numbers or several times as many, so whoever can is done with one before the next is made.
        """
        weights = self.config.weights
        query_BE, positive_BE, negative_BE = (vectors.get(kind) for kind in ("query", "positive", "negative"))
        assert query_BE is not None and positive_BE is not None
        for dim in self.config.dims or (query_BE.shape[1],):
            q_BE, p_BE, n_BE = query_BE[:, :dim], positive_BE[:, :dim], None if negative_BE is None else negative_BE[:, :dim]
            if weights.nce:
                yield "nce", nce(q_BE, p_BE, n_BE, same_BB, self.config.temperature, self.config.hardness)
            if weights.spread_out:
                yield "spread_out", spread_out(q_BE) + spread_out(p_BE)
        yield "accuracy", nearest(query_BE.detach(), positive_BE.detach(), same_BB).float()

    def _to_teacher(self, vectors: Vectors, batch: Batch) -> Terms:
        """{matching: (B,)}, the sum over queries, positives and hard negatives of the distance from the teacher."""
        if not self.config.weights.matching:
            return {}
        apart = []
        for kind, x_BE in vectors.items():
            teacher_BF = batch[kind].extra[TEACHER]
            map_EF = vector_teacher.frozen(x_BE.shape[1], teacher_BF.shape[1]) if self.config.projection == "frozen" else None
            apart.append(matching(x_BE, teacher_BF, self.config.distance, map_EF))
        return {"matching": torch.stack(apart).sum(0)}

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises DataError for a step without negatives, and SpecError, at its key, for widths or a teacher that do not fit."""
        if spec.data.rows < 2:
            raise DataError("the other rows of a step are its negatives, but there is 1 row; expected at least 2", ("data", "rows"))
        width, name = spec.model.vector_dim, "the model's vectors have"
        for i, dim in enumerate(config.dims):
            if dim > width:
                raise SpecError(f"{dim} is more than the {width} numbers that {name}", ("dims", i))
        if config.dims and width not in config.dims:
            rest = f"{name} {width} numbers, of which the last {width - max(config.dims)} would learn from no negative"
            raise SpecError(f"{rest}; expected {width} among the widths", ("dims",))
        _check_measured(spec)
        vector_teacher.check(config, spec, dataset, runs.get("teacher"))

    @classmethod
    def decides(cls, config: Config, dataset: Dataset, runs: Mapping[str, Referred]) -> dict[str, Any]:
        """The digests of the files that say what a teacher of other tokens gives."""
        return vector_teacher.decides(config, dataset, runs.get("teacher"))

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """flops: what comes on top of one text per row: its further texts, GradCache's first pass, the teacher's passes.

        Each text counts as `data.context` tokens, also for a teacher with a tokenizer of its own, so shorter ones cost less.
        Without a dataset, as if it had no hard negatives, and no vectors were kept. Where they are: in the run that
        fills the cache; runs after it find them there.
        """
        context, tokens = spec.data.context, float(spec.tokens)
        kinds = len(dataset.batch("train", 0, 0, 1, context)) if dataset is not None else 2
        own = _flops_per_token(spec.model, context)
        more = {"flops": (kinds - 1) * tokens * own["train"]}
        if spec.train.accumulate * spec.train.shares > 1:
            kept = 0 if spec.train.sharded else 1  # micro-batches of a rank whose graph is kept
            more["flops"] += kinds * tokens * own["prefill"] * (1 - kept / spec.train.accumulate)
        if config.teacher is None:
            return more
        flops, seconds = vector_teacher.cost(config, context, spec.train, runs.get("teacher"))
        read = kinds * tokens
        if config.cache and dataset is not None:
            texts = kinds * len(dataset.numbers("train", spec.train.steps, 0, spec.data.rows, context))
            read = float(texts * context)
            more["disk_bytes"] = vector_teacher.kept_bytes(config, spec, dataset, runs.get("teacher"), texts)
        more |= {"flops": more["flops"] + read * flops, "teacher_flops_per_token": flops}
        return more if seconds is None else more | {"seconds": seconds * read}


def _summed(parts: Iterable[tuple[str, Tensor]]) -> Terms:
    """Each term summed over the widths."""
    found: dict[str, list[Tensor]] = {}
    for name, term_B in parts:
        found.setdefault(name, []).append(term_B)
    return {name: torch.stack(each).sum(0) for name, each in found.items()}


def _check_measured(spec: Any) -> None:
    """Raises DataError for an evaluator that would give this objective one row at a time."""
    for split in ("select", "report"):
        for name, evaluator in (getattr(spec.evaluate, split) or {}).items():
            if evaluator["type"] != "objective":
                continue
            tokens = evaluator.get("context") or spec.data.context
            key, at_once = "context", spec.data.rows * spec.data.context // tokens
            if evaluator["rows"] < at_once:
                key, at_once = "rows", evaluator["rows"]
            if at_once < 2:
                reason = "a row that is measured alone has no negatives; expected at least 2 rows in a batch"
                raise DataError(reason, ("evaluate", split, name, key))


def _flops_per_token(model: Any, context: int) -> dict[str, float]:
    ideal = costs.summary(model, context, plugin_sources(model.dump()))["flops_per_token"]["ideal"]
    return {name: float(ideal[name]) for name in ("train", "prefill")}


def _same(batch: Batch, gathered: Any = lambda tensor: tensor) -> Tensor:
    """Which rows have the same query or the same positive (B, B). gathered: what collects the numbers of all ranks' texts."""
    return same_texts(*(gathered(batch[kind].extra["text"]) for kind in ("query", "positive")))


def _in_pieces(model: Model, batch: Batch) -> Vectors:
    """The vectors of a batch, of a few texts at a time."""
    each = {kind: [model.vectors(part.tokens_BT, part.layout) for part in rows.pieces(TOKENS)] for kind, rows in batch.items()}
    return {kind: torch.cat(parts) for kind, parts in each.items()}
