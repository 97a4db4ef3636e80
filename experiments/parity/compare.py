"""One comparison: what was held against what, how far apart they were and how far they may be."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Row:
    """`error` of `what` (`logits`, `loss`, ...) in `case` against `against`; `bound`: the most it may be.

    Logits and hidden states: the largest absolute error over the largest absolute value. Losses: the relative error.
    Gradients: the largest, over the parameters, of the error's norm over the tensor's norm.
    """

    against: str
    case: str
    what: str
    error: float
    bound: float

    @property
    def agrees(self):
        return self.error <= self.bound


def largest(got, want):
    """The largest absolute error over the largest absolute value."""
    return float((got - want).detach().abs().max() / want.detach().abs().max())


def relative(got, want):
    """The norm of the error over the norm; the absolute norm where there is nothing to compare with."""
    got, want = got.detach(), want.detach()
    norm = want.norm()
    return float((got - want).norm() / (norm if norm > 1e-12 else 1.0))


def next_token_loss(logits_BTV, tokens_BT):
    """Mean cross-entropy of every token but the first, in nats."""
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())


def gradients(model, wanted):
    """The largest relative error of a parameter's gradient: `wanted` has those that are right, under our names.

    A parameter without a gradient, or one gradient too many or too few, is an infinite error.
    """
    ours = dict(model.named_parameters())
    if set(ours) != set(wanted) or any(weight.grad is None for weight in ours.values()):
        return float("inf")
    return worst(relative(ours[name].grad, grad) for name, grad in wanted.items())


def worst(errors):
    """The largest error, and NaN if there is one: Python's `max` would lose it."""
    return float(torch.tensor(list(errors)).max())
