"""The loss of a target given its source, which the objectives of encoder-decoders share.

Shapes: B rows, T tokens of the target, D width, V vocabulary.
"""

import math

import torch
from torch import Tensor

from arch.contracts import Mean
from arch.kernels.cross_entropy import cross_entropy_and_right, linear_cross_entropy
from arch.model import Model
from experiments.data.batch import Batch


def means(model: Model, batch: Batch, lengths_V: Tensor | None = None) -> dict[str, Mean]:
    """{loss: nats per token of the target} of a batch of the kinds `source` and `target`; without a gradient also {accuracy}.

    lengths_V: the bytes of each token, for {nats_per_byte}; ids beyond them (sentinels) stand for no text.
    """
    source, target = batch["source"], batch["target"]
    assert target.targets_BT is not None
    encoded = model.read(source.tokens_BT, source.layout)
    hidden_BTD, _ = model.trunk(target.tokens_BT, target.layout, encoded=encoded)
    targets_N = target.targets_BT.flatten()
    inputs = hidden_BTD.flatten(0, 1), model.head_weight, targets_N, model.spec.logit_softcap
    if torch.is_grad_enabled():
        nats = linear_cross_entropy(*inputs)
        found = {"loss": Mean(nats, batch.weight)}
    else:
        nats, right = cross_entropy_and_right(*inputs)
        found = {"loss": Mean(nats, batch.weight), "accuracy": Mean(right, batch.weight)}
    if lengths_V is not None:
        text_N = (targets_N >= 0) & (targets_N < len(lengths_V))
        found["nats_per_byte"] = Mean(nats.detach(), lengths_V[targets_N.clamp(0, len(lengths_V) - 1)].where(text_N, 0).sum())
    return found


def derived(values: dict[str, float]) -> dict[str, float]:
    """Perplexity, and bits per byte in place of nats per byte, beside the means over all rows."""
    found = {"loss": values["loss"], "perplexity": math.exp(min(values["loss"], 700.0))}
    if "nats_per_byte" in values:
        found["bits_per_byte"] = values["nats_per_byte"] / math.log(2)
    if "accuracy" in values:
        found["accuracy"] = values["accuracy"]
    return found
