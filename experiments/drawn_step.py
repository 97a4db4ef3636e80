"""A training step on drawn tokens, to be timed: the objective's pass forward and backward, without the optimizer's update."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from arch.kernels import products
from arch.layout import TokenLayout
from arch.model import Model
from experiments.data.batch import Batch, Rows
from experiments.means import prepared


@contextmanager
def training(*models: Model) -> Iterator[None]:
    """Context manager: models in training mode, with gradients. On leaving they are as before and have no gradient."""
    before = [model.training for model in models]
    try:
        with torch.enable_grad():
            for model in models:
                model.train()
            yield
    finally:
        for model, was in zip(models, before, strict=True):
            model.zero_grad(set_to_none=True)
            model.train(was)


def tokens(rows: int, length: int, vocabulary: int, seed: int) -> Tensor:
    """(B, T) drawn tokens."""
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def step(model: Model, objective: Any, tokens_BT: Tensor) -> None:
    """A pass forward and backward over one batch, a document per row; its layout is as new as that of a batch of training."""
    rows, length = tokens_BT.shape
    layout = TokenLayout.whole(rows, length, tokens_BT.device)
    batch = Batch.text(Rows(tokens_BT, layout, tokens_BT.roll(-1, 1)))
    model.zero_grad(set_to_none=True)
    products.forget()  # weights change between steps, so whatever was rounded of them is rounded once a step
    with torch.no_grad():
        batch = prepared(objective, model, batch)
    loss = objective(model, batch)["loss"]
    (loss.sum / max(1.0, float(loss.weight))).backward()
