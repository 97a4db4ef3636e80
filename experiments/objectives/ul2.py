"""UL2: a mixture of ways to take tokens out of a text, which the decoder gives back (Tay et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from pydantic import model_validator
from torch import nn

from arch.contracts import Dataset, Mean, Referred
from arch.errors import DataError
from arch.model import Model
from arch.registry import objective
from arch.spec import List, Spec
from experiments import prediction, translation
from experiments.data import corruption
from experiments.data.batch import Batch
from experiments.data.corruption import Denoiser
from experiments.metrics import NEXT_TOKEN


@objective
class UL2(nn.Module):
    """loss = -sum log p(target) / number of targets, over what was taken out of each document.

    The default mixture is that of T5Gemma 2 (Zhang et al. 2025, section 3.1): spans of about 3, 12 and 32 tokens at two rates, and
    as often as these together a suffix of three quarters. Each document of a packed row draws one of them. What is drawn depends on
    (seed, step, row, document) alone, so micro-batches and devices change nothing; where a model is evaluated, on the row.

    Sentinels are the ids behind the tokenizer's: `model.vocab_size` needs room for them. Models are measured by `prefix_lm`, which
    nothing drawn and no sentinel changes.
    """

    class Config(Spec):
        """denoisers: the mixture, each with its `span`, `rate` and `weight`."""

        denoisers: List[Denoiser] = (
            Denoiser(span=3, rate=0.15),
            Denoiser(span=12, rate=0.5),
            Denoiser(span=32, rate=0.15),
            Denoiser(span=32, rate=0.5),
            Denoiser(rate=0.75, weight=4),
        )

        @model_validator(mode="after")
        def _some(self):
            if not self.denoisers:
                raise ValueError("denoisers: expected at least one")
            return self

    needs = frozenset({"encoder_decoder", "rows"})
    metrics = {name: NEXT_TOKEN[name] for name in ("loss", "perplexity", "accuracy")}
    measured_by = "prefix_lm"

    def __init__(self, config: Config, dataset: Dataset):
        """dataset: may have `begin`; its `vocabulary` is the first sentinel."""
        super().__init__()
        self.config, self.opening, self.first = config, getattr(dataset, "begin", 0), dataset.vocabulary
        weights = np.array([each.weight for each in config.denoisers])
        self.bounds = np.cumsum(weights / weights.sum())

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises DataError where the vocabulary has no room for the sentinels of a row that is one document."""
        needed = dataset.vocabulary + sentinels(config, spec.data.context)
        if spec.model.vocab_size < needed:
            reason = (
                f"{spec.model.vocab_size:,} has no room for sentinels: {dataset.vocabulary:,} tokens of text and "
                f"{needed - dataset.vocabulary} sentinels for spans in {spec.data.context:,} tokens; expected at least {needed:,}"
            )
            raise DataError(reason, key=("model", "vocab_size"))

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Source and target of each document, by the denoiser that it draws."""
        rows, room = batch["text"], model.spec.vocab_size - self.first
        if (needed := sentinels(self.config, rows.tokens_BT.shape[1])) > room:
            raise DataError(f"rows of {rows.tokens_BT.shape[1]} tokens need {needed} sentinels; there is room for {room}", key=None)

        def cut(tokens_N, key, number):
            random = np.random.default_rng([*batch.drawn, key, number])
            chosen = min(int(np.searchsorted(self.bounds, random.random(), side="right")), len(self.bounds) - 1)
            denoiser, n = self.config.denoisers[chosen], len(tokens_N)
            if denoiser.span is None:
                return corruption.without_suffix(tokens_N, denoiser.taken(n))
            return corruption.without_spans(tokens_N, denoiser.taken(n), denoiser.spans(n), self.first, random)

        source, target = corruption.pairs(rows, self.opening, cut)
        return Batch(source=source, target=target)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{loss}; without a gradient also {accuracy}."""
        return translation.means(model, batch)

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Perplexity."""
        return prediction.derived(values)


@cache  # asked in every step
def sentinels(config: UL2.Config, tokens: int) -> int:
    """How many sentinels a document of at most so many tokens needs."""
    return 1 + max((each.spans(n) for each in config.denoisers if each.span for n in range(2, tokens + 1)), default=-1)
