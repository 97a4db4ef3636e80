"""Distillation: a student learns to predict what a frozen teacher predicts (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

Shapes: B rows, T tokens, N scored positions, D width, E the teacher's width, V vocabulary, K entries per position.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from arch import checkpoint
from arch.contracts import Dataset, Mean, Metric, Reading, Referred
from arch.errors import DataError, SpecError
from arch.kernels import products
from arch.kernels.distillation import Distances, full, sparse
from arch.model import Model
from arch.plugins import plugin_sources
from arch.registry import objective
from arch.spec import Count, Fraction, Positive, Spec, digest, place
from experiments import costs, precision, prediction
from experiments.data.batch import Batch, Rows
from experiments.distillation import cache, estimate, packed, same_tokens
from experiments.distillation.teacher import Keeping, Kept, Teacher
from experiments.spec import Reference
from experiments.start import content

Student = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # hidden states (N, D), the head's weight (V, D), targets (N,)
K = 256
MODES = Literal["full", "sampled", "counts", "top_k"]


@objective
class Distill(nn.Module):
    """loss = (1 - mix) T^2 H(p, q) + mix H(y, q1), with H(p, q) = -sum p log q, p the teacher and q the student at temperature T.

    y is the next token and q1 the student at temperature 1. T^2 keeps the gradient as large as that of the hard loss (Hinton
    2015, section 2.1). The target p is, by `mode`:

    full     the teacher's whole distribution (Gemma 2, section 3): its forward pass is computed in every step.
    sampled  k draws with replacement; the teacher's probabilities renormalised on the distinct ones, 0 elsewhere (Gemma 3,
             section 2.2). Biased: likely tokens get too much, the flatter the teacher the more.
    counts   k draws with replacement; how often each was drawn, by k. Unbiased, but noisier where the teacher is sure.
    top_k    the k largest probabilities. `tail: renormalise`: 0 elsewhere, which is biased and does not depend on chance.
             `tail: bucket`: all other tokens are one further outcome, of the teacher and of the student.

    The student is over the whole vocabulary, but for a bucket. `docs/distillation.md` has the biases in numbers.
    Reported is the student's cross-entropy (`next_token`), never this loss.
    """

    class Config(Spec):
        """teacher: a run or a checkpoint's folder. cache: keep the targets of all rows on disk (not of the mode `full`).

        mode: how much of the teacher's distribution is the target: `full`, `sampled` or `counts` (k draws), `top_k` (k entries).
        k: draws, or entries. tail: of `top_k`, what becomes of the rest: `renormalise` the k, or put it into one `bucket`.
        temperature: T of both distributions; the loss is multiplied by T^2. mix: the part of the loss that is the plain
        cross-entropy. precision: of the teacher's weights.
        """

        teacher: Reference = place(...)
        mode: MODES = "full"
        k: Count = K
        temperature: Positive = 1.0
        mix: Fraction = 0.0
        tail: Literal["renormalise", "bucket"] = "renormalise"
        cache: bool = False
        precision: Literal["float32", "bfloat16"] = "float32"

    needs = frozenset({"causal", "rows"})
    runs = ("teacher",)
    measured_by = "next_token"
    # kl: of the student from the target at the temperature: in a sparse mode, from what is kept. agreement: of the most likely
    # tokens; in a sparse mode, the teacher's is the most likely one of those kept. cross_entropy: the student's own.
    metrics = {
        "loss": Metric(unit="nats per token"),
        "kl": Metric(unit="nats per token"),
        "agreement": Metric(better="higher"),
        "cross_entropy": Metric(unit="nats per token", compare="log", exponential="perplexity"),
    }

    def __init__(self, config: Config, dataset: Dataset, runs: Mapping[str, Path]):
        """runs: {"teacher": the folder of its checkpoint}. It is read when it is first needed."""
        super().__init__()
        self.config, self.folder, self.fingerprint = config, Path(runs["teacher"]), dataset.fingerprint
        self.cache: cache.Cache | None = None

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher. It is no submodule, so it is in no checkpoint and nothing trains it."""
        return Teacher.load(self.folder, self.config.precision)

    @property
    def keeping(self) -> Keeping:
        """What is kept of the teacher's distribution."""
        return _keeping(self.config)

    def about(self, context: int) -> cache.About:
        """What decides the targets of this teacher for rows of so many tokens."""
        return about(self.folder, self.fingerprint, context, self.keeping)

    def begin(self, reading: Reading) -> None:
        """Fill the cache, if there is one, with what the run will read."""
        if not self.config.cache:
            return
        numbers = reading.dataset.numbers("train", reading.steps, reading.seed, reading.rows, reading.context)
        teacher = lambda: self.teacher.to(reading.device)  # noqa: E731
        about = self.about(reading.context)
        self.cache = cache.fill(about, teacher, reading.dataset, numbers, reading.device, reading.progress)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Adds what the teacher says of each row: its hidden states, or what is kept of its distribution."""
        rows = batch["text"]
        if self.config.mode == "full":
            rows.extra["teacher_hidden"] = self.teacher.to(rows.tokens_BT.device).hidden(rows)
            return batch
        kept = self._kept(rows)
        rows.extra |= {"teacher_words": kept.words_BTK, "teacher_tail": kept.tail_BT}
        return batch

    def _kept(self, rows: Rows) -> Kept:
        if self.cache is not None and self.training:  # the numbers of rows are those of the train split
            return self.cache.kept(rows)
        return self.teacher.to(rows.tokens_BT.device).kept(rows, self.keeping)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The metrics, of the positions with a target; no other reaches either head."""
        rows = batch["text"]
        hidden_ND, targets_N, chosen_BT = prediction.at_targets(model, rows)
        student = hidden_ND, model.head_weight, targets_N
        options = {
            "softcap": model.spec.logit_softcap,
            "temperature": self.config.temperature,
            "mix": self.config.mix,
        }
        if self.config.mode == "full":
            found = self._from_all(student, rows.extra["teacher_hidden"][chosen_BT], options)
        else:
            words_NK, tail_N = rows.extra["teacher_words"][chosen_BT], rows.extra["teacher_tail"][chosen_BT]
            bucket = self.config.tail == "bucket"
            found = sparse(*student, *packed.targets(words_NK, tail_N, self.config.mode, bucket, model.spec.vocab_size), **options)
        parts = {"kl": found.kl_N, "agreement": found.agree_N, "cross_entropy": found.nats_N}
        return {"loss": Mean(found.loss, batch.weight)} | {name: Mean(each.sum(), batch.weight) for name, each in parts.items()}

    def _from_all(self, student: Student, hidden_NE: torch.Tensor, options: dict[str, Any]) -> Distances:
        teacher = self.teacher.model
        options = options | {"teacher_softcap": teacher.spec.logit_softcap}
        return full(*student, hidden_NE, teacher.head_weight, **options)

    def distances(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{kl, agreement} from the teacher's whole distribution at temperature 1, whatever the student was trained on."""
        rows = batch["text"]
        hidden_ND, targets_N, chosen_BT = prediction.at_targets(model, rows)
        hidden_NE = self.teacher.to(rows.tokens_BT.device).hidden(rows)[chosen_BT]
        student = hidden_ND, model.head_weight, targets_N
        found = self._from_all(student, hidden_NE, {"softcap": model.spec.logit_softcap})
        return {"kl": Mean(found.kl_N.sum(), batch.weight), "agreement": Mean(found.agree_N.sum(), batch.weight)}

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises SpecError, at its key, for a teacher of other tokens, options that do not fit, or a cache of something else."""
        same_tokens.check(spec, dataset, runs["teacher"])
        _check_options(config, spec.model.vocab_size)
        if config.cache:
            cache.check_numbered(dataset, spec.data.source["type"])
            if folder := runs["teacher"].folder:
                try:
                    with precision.scope(spec.train):
                        kept = about(folder, dataset.fingerprint, spec.data.context, _keeping(config))
                    cache.inspect(kept)
                except DataError as error:
                    raise SpecError(str(error), ("cache",)) from None

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """The teacher's forward passes over what it reads: every row in every step, or each distinct row once for a cache.

        flops, seconds: in the run that fills the cache; runs after it find the rows there. seconds: `estimate.seconds`.
        """
        model, context = runs["teacher"].model, spec.data.context
        plugins = plugin_sources(model.dump())
        per_token = float(costs.summary(model, context, plugins)["flops_per_token"]["ideal"]["prefill"])
        tokens = spec.tokens
        if config.cache and dataset is not None and hasattr(dataset, "numbers"):
            tokens = len(dataset.numbers("train", spec.train.steps, 0, spec.data.rows, context)) * context
        more = {"flops": per_token * tokens, "teacher_flops_per_token": per_token}
        if config.cache:
            more["disk_bytes"] = cache.bytes_at_most(tokens, config.mode, config.k, spec.model.vocab_size)
        seconds = estimate.seconds(runs["teacher"], context, spec.train, per_token)
        return more if seconds is None else more | {"seconds": seconds * tokens}


def about(folder: str | Path, fingerprint: str, context: int, keeping: Keeping) -> cache.About:
    """What decides the targets of the teacher in a checkpoint's folder, for a run that computes as this process does now."""
    model, _ = checkpoint.open_checkpoint(folder)
    return cache.About(
        weights=content(folder),
        model=digest(model),
        vocabulary=model.vocab_size,
        data=fingerprint,
        context=context,
        keeping=keeping,
        computes=products.said(),
        plugins=plugin_sources(model.dump()),
    )


def _keeping(config: Distill.Config) -> Keeping:
    assert config.mode != "full", "the whole distribution is not kept"
    return Keeping(mode=config.mode, k=config.k, temperature=config.temperature, precision=config.precision)


def _check_options(config: Distill.Config, vocabulary: int) -> None:
    if config.mode == "full":
        if config.cache:
            raise SpecError("mode full keeps nothing but all of the vocabulary; expected mode sampled, counts or top_k", ("cache",))
        if config.k != K:
            raise SpecError("mode full uses the whole vocabulary and has no k", ("k",))
    elif config.k > vocabulary:
        raise SpecError(f"{config.k:,} is more than the vocabulary of {vocabulary:,}; mode full uses all of it", ("k",))
    if config.mode == "counts" and config.k > packed.largest_code(vocabulary):
        most = packed.largest_code(vocabulary)
        raise SpecError(f"a count of {config.k:,} does not fit into an entry; expected at most {most:,}", ("k",))
    if config.mode != "top_k" and config.tail != "renormalise":
        raise SpecError(f"only mode top_k has a tail, not {config.mode}", ("tail",))
