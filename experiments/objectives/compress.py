"""Compression: a whole row must go through the hidden state of its last token (MAD, Poli et al. 2024, section 3.1).

Shapes: B rows, T tokens, N scored positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arch.contracts import Dataset, Mean, Metric, Referred
from arch.kernels.cross_entropy import cross_entropy_and_right, linear_cross_entropy
from arch.layout import TokenLayout
from arch.model import Model
from arch.plugins import plugin_sources
from arch.registry import objective
from arch.spec import Spec
from experiments import costs
from experiments.data.batch import Batch

# The longest and the shortest period of the position code are about this far apart (Vaswani et al. 2017, section 3.5).
PERIODS = 10_000.0


@objective
class Compress(nn.Module):
    """loss = the cross-entropy of each target t of a row, predicted from h + code(t), h the hidden state of the row's last token.

    The decoder is the model itself: it reads h + code(t) as a document of one token, so nothing but h can tell it what the row was.
    MAD's decoder is a network of its own with two layers, the same for every mixer; here everything that is trained belongs to the
    model, and a mixer also decodes. code: sines and cosines of the position, as large as an embedding.
    """

    class Config(Spec):
        """No options."""

    needs = frozenset({"causal", "rows"})
    metrics = {
        "loss": Metric(unit="nats per token", compare="log", exponential="perplexity"),
        "accuracy": Metric(better="higher", compare="difference"),
    }

    def __init__(self, config: Config, dataset: Dataset):
        super().__init__()

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """flops: the model once more over as many tokens, forward and backward."""
        model, context = spec.model, spec.data.context
        per_token = costs.summary(model, context, plugin_sources(model.dump()))["flops_per_token"]["ideal"]["train"]
        return {"flops": float(per_token) * spec.tokens}

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{loss} over the positions with a target; without a gradient also {accuracy}."""
        rows = batch["text"]
        assert rows.targets_BT is not None
        hidden_BTD, _ = model.trunk(rows.tokens_BT, rows.layout)
        number, tokens, dim = hidden_BTD.shape
        code_TD = codes(tokens, dim, hidden_BTD.device).to(hidden_BTD.dtype)
        each_BT = torch.arange(tokens, device=hidden_BTD.device).expand(number, tokens)
        decoded_BTD, _ = model.trunk(hidden_BTD[:, -1:] + code_TD, TokenLayout.packed(each_BT))
        targets_N = rows.targets_BT.flatten()
        inputs = decoded_BTD.flatten(0, 1), model.head_weight, targets_N, model.spec.logit_softcap
        if torch.is_grad_enabled():
            return {"loss": Mean(linear_cross_entropy(*inputs), batch.weight)}
        nats, right = cross_entropy_and_right(*inputs)
        return {"loss": Mean(nats, batch.weight), "accuracy": Mean(right, batch.weight)}


def codes(tokens: int, dim: int, device: Any = None) -> Tensor:
    """(tokens, dim): sines, then cosines of each position with periods from 2 pi to PERIODS times as long; of mean square 1."""
    half = (dim + 1) // 2
    rate_H = torch.exp(-math.log(PERIODS) * torch.arange(half, device=device) / max(1, half - 1))
    angle_TH = torch.arange(tokens, device=device)[:, None] * rate_H
    return math.sqrt(2) * torch.cat([angle_TH.sin(), angle_TH.cos()], 1)[:, :dim]
