"""Prefix language modelling: the encoder reads the beginning of a text, the decoder gives the rest."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from arch.contracts import Dataset, Mean
from arch.model import Model
from arch.registry import objective
from arch.spec import Spec
from experiments import prediction, translation
from experiments.data import corruption
from experiments.data.batch import Batch
from experiments.metrics import NEXT_TOKEN


@objective
class PrefixLM(nn.Module):
    """loss = -sum log p(target) / number of targets, over the tokens behind each document's prefix (T5Gemma, section 3).

    Each document of a packed row is cut on its own; one of a single token has no target. Nothing is drawn. Bits per byte are of the
    text behind the prefixes, so they can be compared across tokenizers.
    """

    class Config(Spec):
        """prefix: the share of a document's tokens that the encoder reads; at least one token is on each side."""

        prefix: Annotated[float, Field(gt=0, lt=1)] = 0.5

    needs = frozenset({"encoder_decoder", "rows"})
    metrics = NEXT_TOKEN
    byte_lengths_V: torch.Tensor | None

    def __init__(self, config: Config, dataset: Dataset):
        """dataset: may have `byte_lengths` (V,), the UTF-8 bytes that each token stands for, and `begin`."""
        super().__init__()
        self.config, self.opening = config, getattr(dataset, "begin", 0)
        self.register_buffer("byte_lengths_V", prediction.byte_lengths(dataset), persistent=False)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Source and target of each document."""

        def cut(tokens_N, key, number):
            prefix = corruption.part_of(len(tokens_N), self.config.prefix)
            return corruption.without_suffix(tokens_N, len(tokens_N) - prefix)

        source, target = corruption.pairs(batch["text"], self.opening, cut)
        return Batch(source=source, target=target)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{loss} and, where bytes are known, {nats_per_byte}; without a gradient also {accuracy}."""
        return translation.means(model, batch, self.byte_lengths_V)

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Perplexity, and bits per byte."""
        return prediction.derived(values)
