"""Next-token prediction: cross-entropy against the token that follows.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import math

import torch
from torch import nn

from arch.kernels.cross_entropy import linear_cross_entropy
from arch.layout import TokenLayout
from arch.registry import objective
from arch.spec import Spec
from experiments.metrics import NEXT_TOKEN


@objective
class NextToken(nn.Module):
    """loss_sum = -sum log p(target) over the positions with a target; weight = the number of these positions.

    Returning sums makes accumulation, masked positions and data parallelism exact: a step's loss is the sum of all
    loss_sums divided by the sum of all weights, however the rows are divided.
    """

    class Config(Spec):
        """No options."""

    metrics = NEXT_TOKEN

    def __init__(self, config, byte_lengths_V):
        """byte_lengths_V: the UTF-8 bytes that each token stands for, for bits per byte."""
        super().__init__()
        self.register_buffer("byte_lengths_V", torch.as_tensor(byte_lengths_V, dtype=torch.long), persistent=False)

    def weight(self, batch):
        """The number of positions in a batch that have a target."""
        return int((batch.targets_BT >= 0).sum())

    def forward(self, model, batch):
        """(loss_sum in nats, weight, sums). Add up `sums` over batches; `summarise` turns the totals into metrics."""
        hidden_BTD, _ = model.trunk(batch.tokens_BT, TokenLayout(batch.doc_BT, batch.pos_BT))
        targets = batch.targets_BT.flatten()
        loss_sum = linear_cross_entropy(hidden_BTD.flatten(0, 1), model.head_weight, targets, model.spec.logit_softcap)
        weight = self.weight(batch)
        lengths = self.byte_lengths_V[targets.clamp(min=0)]
        sums = {"nats": loss_sum.detach(), "tokens": weight, "bytes": torch.where(targets >= 0, lengths, 0).sum()}
        return loss_sum, weight, sums

    def summarise(self, sums):
        """{loss: nats per token, perplexity, bits_per_byte} from `sums` added up over batches.

        Bits per byte can be compared across tokenizers.
        """
        loss = float(sums["nats"]) / max(1, int(sums["tokens"]))
        bits = float(sums["nats"]) / math.log(2) / max(1, int(sums["bytes"]))
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}
