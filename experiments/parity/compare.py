"""One comparison: what was compared, the error and its bound; and the error measures."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from arch.errors import DataError


@dataclass(frozen=True)
class Row:
    """The error of one quantity in one case, and the most that it may be (`bound`).

    what: the quantity, e.g. `logits` or `loss`. against: the other implementation.
    Against `transformers`, the error of logits, decoded logits and hidden states is the largest absolute error over the
    largest absolute value; against the reference code, it is the error's norm over the norm. Losses: the relative
    error. Gradients: the error's norm over the gradient's norm, of the parameter with the largest.
    """

    against: str
    case: str
    what: str
    error: float
    bound: float

    @property
    def agrees(self):
        return self.error <= self.bound


def recorded(path):
    """The file of recorded numbers. Raises DataError if it is missing."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; the recorded numbers are part of a checkout", key=None)
    return path


def largest(got, want):
    """The largest absolute error over the largest absolute value."""
    return float((got - want).detach().abs().max() / want.detach().abs().max())


def relative(got, want):
    """The norm of the error over the norm of `want`; the norm of the error if `want` is zero."""
    got, want = got.detach(), want.detach()
    norm = want.norm()
    return float((got - want).norm() / (norm if norm > 1e-12 else 1.0))


def next_token_loss(logits_BTV, tokens_BT):
    """Mean cross-entropy of all tokens but the first of each row, in nats."""
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())


def gradients(model, wanted):
    """The largest relative error of a parameter's gradient. wanted: {our parameter name: correct gradient}.

    The error is infinite if a parameter has no gradient or if the names differ.
    """
    ours = dict(model.named_parameters())
    if set(ours) != set(wanted) or any(weight.grad is None for weight in ours.values()):
        return float("inf")
    return worst(relative(ours[name].grad, grad) for name, grad in wanted.items())


def worst(errors):
    """The largest error, or NaN if there is one, which Python's `max` could miss."""
    return float(torch.tensor(list(errors)).max())
