"""An objective of a user's own: one file, two metrics, and no perplexity."""

import torch.nn.functional as F
from torch import nn

from arch.contracts import Mean, Metric
from arch.registry import objective
from arch.spec import Spec


@objective
class WithAccuracy(nn.Module):
    """Cross-entropy with the share of tokens that are predicted; no perplexity anywhere."""

    class Config(Spec):
        scale: float = 1.0
        trained: bool = False
        weigh: float = 1.0

    metrics = {"loss": Metric(unit="nats", compare="log"), "accuracy": Metric(better="higher")}

    def __init__(self, config, dataset):
        super().__init__()
        self.config = config
        self.frozen = nn.Linear(3, 3).requires_grad_(config.trained)

    def forward(self, model, batch):
        rows = batch["text"]
        logits, targets = model(rows.tokens_BT, rows.layout).flatten(0, 1), rows.targets_BT.flatten()
        loss = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        right = (logits.argmax(-1) == targets).sum()
        weight = batch.weight * self.config.weigh
        return {"loss": Mean(self.config.scale * loss, weight), "accuracy": Mean(right, batch.weight)}
