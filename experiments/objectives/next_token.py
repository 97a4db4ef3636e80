"""Next-token prediction: cross-entropy against the token that follows.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import torch
from torch import nn

from arch.contracts import Dataset, Mean
from arch.kernels.cross_entropy import predictions
from arch.model import Model
from arch.registry import objective
from arch.spec import Spec
from experiments import prediction
from experiments.data.batch import Batch
from experiments.metrics import NEXT_TOKEN


@objective
class NextToken(nn.Module):
    """loss = -sum log p(target) / number of targets, over the positions with a target.

    Means are kept as sum and weight, which makes accumulation, masked positions and data parallelism exact: a step's
    loss is the sum of all losses divided by the number of all targets, however the rows are divided.
    Bits per byte can be compared across tokenizers. A dataset that does not know its tokens' bytes has none.
    accuracy: the share of targets that are the most probable token; one that shares its probability with another is not
    counted. It is measured where a model is evaluated, so that it costs no training step anything.
    """

    class Config(Spec):
        """No options."""

    needs = frozenset({"causal", "rows"})
    reads_images = True
    metrics = NEXT_TOKEN
    byte_lengths_V: torch.Tensor | None

    def __init__(self, config: Config, dataset: Dataset):
        """dataset: may have `byte_lengths` (V,), the UTF-8 bytes that each token stands for."""
        super().__init__()
        self.register_buffer("byte_lengths_V", prediction.byte_lengths(dataset), persistent=False)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{loss: nats per token} and, where bytes are known, {nats_per_byte}, from which `derive` makes bits per byte.

        Without a gradient also {accuracy}.
        """
        rows = batch["text"]
        assert rows.targets_BT is not None
        hidden_ND = prediction.hidden(model, rows).flatten(0, 1)
        return prediction.means(model, hidden_ND, rows.targets_BT.flatten(), batch.weight, self.byte_lengths_V)

    def by_position(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The means of `forward` for each position: nats with weight 1, and with the bytes of the target; 0 without a target."""
        rows = batch["text"]
        assert rows.targets_BT is not None
        hidden_BTD = prediction.hidden(model, rows)
        targets_N = rows.targets_BT.flatten()
        inputs = hidden_BTD.flatten(0, 1), model.head_weight, targets_N, model.spec.logit_softcap
        nats_BT, right_BT = (each_N.view_as(rows.targets_BT) for each_N in predictions(*inputs))
        target_BT = rows.targets_BT >= 0
        means = {"loss": Mean(nats_BT, target_BT), "accuracy": Mean(right_BT, target_BT)}
        if self.byte_lengths_V is not None:
            means["nats_per_byte"] = Mean(nats_BT, self.byte_lengths_V[rows.targets_BT.clamp(min=0)] * target_BT)
        return means

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """The metrics of all rows from the means over them: perplexity, and bits per byte in place of nats per byte."""
        return prediction.derived(values)
