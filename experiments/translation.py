"""The loss of a target given its source, which the objectives of encoder-decoders share."""

from torch import Tensor

from arch.contracts import Mean
from arch.model import Model
from experiments import prediction
from experiments.data.batch import Batch


def means(model: Model, batch: Batch, lengths_V: Tensor | None = None) -> dict[str, Mean]:
    """`prediction.means` over the targets of a batch of the kinds `source` and `target`."""
    source, target = batch["source"], batch["target"]
    assert target.targets_BT is not None
    encoded = model.read(source.tokens_BT, source.layout)
    hidden_ND = model.trunk(target.tokens_BT, target.layout, encoded=encoded)[0].flatten(0, 1)
    return prediction.means(model, hidden_ND, target.targets_BT.flatten(), batch.weight, lengths_V)
