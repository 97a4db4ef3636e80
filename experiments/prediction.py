"""How well the tokens that are to be predicted are predicted, which the objectives of such tokens share.

Shapes: B rows, T tokens, N positions, D width, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from arch.contracts import Dataset, Mean
from arch.kernels.cross_entropy import cross_entropy_and_right, linear_cross_entropy
from arch.model import Model
from experiments.data.batch import Rows


class AtTargets(NamedTuple):
    """The positions of rows that have a target: hidden_ND, targets_N; chosen_BT: where they are."""

    hidden_ND: Tensor
    targets_N: Tensor
    chosen_BT: Tensor


def at_targets(model: Model, rows: Rows) -> AtTargets:
    """Hidden states of the positions with a target; no other need reach a head."""
    assert rows.targets_BT is not None
    chosen_BT = rows.targets_BT >= 0
    return AtTargets(hidden(model, rows)[chosen_BT], rows.targets_BT[chosen_BT], chosen_BT)


def hidden(model: Model, rows: Rows) -> Tensor:
    """The hidden states (B, T, D) of rows, with their images if they have some."""
    return model.trunk(rows.tokens_BT, rows.layout, images=rows.extra.get("images"))[0]


def byte_lengths(dataset: Dataset) -> Tensor | None:
    """(V,) int64: the UTF-8 bytes that each token of a dataset stands for; None where it does not know."""
    lengths_V = getattr(dataset, "byte_lengths", None)
    return None if lengths_V is None else torch.as_tensor(lengths_V, dtype=torch.long)


def means(model: Model, hidden_ND: Tensor, targets_N: Tensor, weight: int, lengths_V: Tensor | None = None) -> dict[str, Mean]:
    """{loss: nats per token}; without a gradient also {accuracy}; with lengths_V, the bytes of each token, {nats_per_byte}.

    targets_N: -1 for none. weight: how many have one. Ids beyond lengths_V (sentinels) stand for no text.
    """
    inputs = hidden_ND, model.head_weight, targets_N, model.spec.logit_softcap
    if torch.is_grad_enabled():
        nats = linear_cross_entropy(*inputs)
        found = {"loss": Mean(nats, weight)}
    else:
        nats, right = cross_entropy_and_right(*inputs)
        found = {"loss": Mean(nats, weight), "accuracy": Mean(right, weight)}
    if lengths_V is not None:
        text_N = (targets_N >= 0) & (targets_N < len(lengths_V))
        lengths_N = lengths_V[targets_N.clamp(0, len(lengths_V) - 1)]
        found["nats_per_byte"] = Mean(nats.detach(), torch.where(text_N, lengths_N, 0).sum())
    return found


def derived(values: dict[str, float]) -> dict[str, float]:
    """The metrics of all rows from the means over them: perplexity, and bits per byte in place of nats per byte."""
    metrics = {"loss": values["loss"], "perplexity": math.exp(min(values["loss"], 700.0))}
    if "nats_per_byte" in values:
        metrics["bits_per_byte"] = values["nats_per_byte"] / math.log(2)
    if "accuracy" in values:
        metrics["accuracy"] = values["accuracy"]
    return metrics
