"""Losses of a final projection, computed in chunks of positions that never hold all logits; each has a plain reference.

Here are hard targets and what every chunked loss shares; `distillation.py` has the losses against a teacher.

Shapes: N positions, V vocabulary, D width, n positions of a chunk.
Logits are z = cap(h W^T) with cap(z) = softcap * tanh(z / softcap). Logits, and all that follows, are in float32.

The loss is a sum, so the gradient of its logits is known up to the scalar gradient of the loss. The forward pass
therefore turns the logits of a chunk into their own gradient in place, adds the chunk's part to the gradients of h and
W, and reuses the buffer for the next chunk (Hsu et al. 2024, Liger Kernel; Wijmans et al. 2024, Cut Your Losses).
Only h and W receive gradients, and only once: a second backward pass through the same call, or a second derivative,
raises RuntimeError.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from arch.kernels import products
from arch.kernels.softcap import cap_

# Bytes for all buffers of a chunk: its logits, a second buffer for a softcap, one for a teacher's distribution. Small
# chunks are slower: with a vocabulary of 262,144, the first product takes 1.2 times as long in chunks of 256 positions
# as in chunks of 512.
BUFFER_BYTES = 512 << 20
# The same beside bfloat16 states, whose step needs half the memory: there, more would be its peak. Never fewer positions.
NARROW_BYTES, FEWEST = 16 << 20, 512


def reference(hidden_ND, weight_VD, targets_N, softcap=None):
    """The sum of -log p(target) over the positions with a target >= 0, from all N x V logits."""
    log_p_NV = all_logits(hidden_ND, weight_VD, softcap).log_softmax(-1)
    return F.nll_loss(log_p_NV, targets_N, ignore_index=-1, reduction="sum")


def linear_cross_entropy(hidden_ND, weight_VD, targets_N, softcap=None):
    """`reference` in chunks. No logits are computed for positions without a target."""
    labelled_N = targets_N >= 0
    if not labelled_N.all():
        hidden_ND, targets_N = hidden_ND[labelled_N], targets_N[labelled_N]
    return chunked(hidden_ND, weight_VD, Targets(targets_N), softcap)


def reference_weighted(hidden_ND, weight_VD, targets_N, factor_N, softcap=None):
    """The sum of -factor log p(target), from all N x V logits. Every position has a target."""
    log_p_NV = all_logits(hidden_ND, weight_VD, softcap).log_softmax(-1)
    return -(factor_N * log_p_NV.gather(1, targets_N[:, None])[:, 0]).sum()


def weighted_cross_entropy(hidden_ND, weight_VD, targets_N, factor_N, softcap=None):
    """`reference_weighted` in chunks. factor_N: a number for each position, also below 0; it has no gradient."""
    return chunked(hidden_ND, weight_VD, _Weighted(targets_N, factor_N), softcap)


def cross_entropies(hidden_ND, weight_VD, targets_N, softcap=None):
    """-log p(target) of each position, (N,); 0 for a position without a target. In chunks, as `linear_cross_entropy`.

    In float32, or float64 where the weight is. Without a gradient.
    """
    return predictions(hidden_ND, weight_VD, targets_N, softcap)[0]


def predictions(hidden_ND, weight_VD, targets_N, softcap=None):
    """(-log p(target), whether the target is the most probable token), (N,) each; 0 and False without a target.

    As `cross_entropies`, which computes the same. A target that only shares the largest logit is not right.
    """
    _, each, labelled_N = _each(hidden_ND, weight_VD, targets_N, softcap)
    nats_N = hidden_ND.new_zeros(len(targets_N), dtype=torch.promote_types(weight_VD.dtype, torch.float32))
    right_N = torch.zeros_like(labelled_N)
    nats_N[labelled_N] = torch.cat([nats_N.new_empty(0), *each.nats_n]).to(nats_N.dtype)
    right_N[labelled_N] = torch.cat([right_N.new_empty(0), *each.right_n])
    return nats_N, right_N


def cross_entropy_and_right(hidden_ND, weight_VD, targets_N, softcap=None):
    """(`linear_cross_entropy` to the last bit, how many targets are right as in `predictions`), without a gradient."""
    total, each, _ = _each(hidden_ND, weight_VD, targets_N, softcap)
    return total, sum((right_n.sum() for right_n in each.right_n), total.new_zeros((), dtype=torch.long))


def _each(hidden_ND, weight_VD, targets_N, softcap):
    labelled_N = targets_N >= 0
    each = _Each(targets_N[labelled_N])
    with torch.no_grad():
        return chunked(hidden_ND[labelled_N], weight_VD, each, softcap), each, labelled_N


def chunked(hidden_ND, weight_VD, wanted, softcap=None, temperature=1.0):
    """The sum over positions of the distance between softmax(z / temperature) and `wanted`, as a float32 scalar.

    wanted: `buffers`, how many further buffers of a chunk's size it needs, and `differ(z_nV, first, *buffers)`, which
    returns the distance of the positions from `first` on and turns z, the logits by the temperature, into its gradient.
    Factors of products are in the type of h, or in autocast's; the weight's gradient is summed in float32.
    """
    device = hidden_ND.device.type
    recording = torch.is_grad_enabled()  # always False inside the forward of a Function
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return _Chunked.apply(hidden_ND, weight_VD, wanted, softcap, temperature, recording)
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        return _Chunked.apply(hidden_ND.to(dtype), weight_VD, wanted, softcap, temperature, recording)


class Targets:
    """One target per position."""

    buffers = 0

    def __init__(self, ids_N):
        self.ids_N = ids_N

    def differ(self, z_nV, first):
        """The sum of -log q(target) over the positions of z, from `first` on. z becomes its gradient, q - 1 at the target."""
        target_n1 = self.ids_N[first : first + len(z_nV), None]
        of_target_n1 = z_nV.gather(1, target_n1)
        loss = (softmax_(z_nV) - of_target_n1).sum()
        z_nV.scatter_add_(1, target_n1, torch.full_like(of_target_n1, -1.0))
        return loss


class _Weighted:
    """One target per position, whose part of the loss has a factor."""

    buffers = 0

    def __init__(self, ids_N, factor_N):
        self.ids_N, self.factor_N = ids_N, factor_N.detach()

    def differ(self, z_nV, first):
        """The weighted sum of -log q(target) of the positions of z, from `first` on. z becomes its gradient."""
        chosen = slice(first, first + len(z_nV))
        target_n1, factor_n1 = self.ids_N[chosen, None], self.factor_N[chosen, None].to(z_nV.dtype)
        of_target_n1 = z_nV.gather(1, target_n1)
        loss = (factor_n1 * (softmax_(z_nV) - of_target_n1)).sum()
        z_nV.scatter_add_(1, target_n1, torch.full_like(of_target_n1, -1.0)).mul_(factor_n1)
        return loss


class _Each:
    """One target per position, for losses that need no gradient: it keeps what each position has, chunk by chunk."""

    buffers = 0

    def __init__(self, targets_N):
        self.targets_N, self.nats_n, self.right_n = targets_N, [], []

    def differ(self, z_nV, first):
        """The sum of -log q(target) over the positions of z, from `first` on. z becomes q, and not its gradient."""
        target_n1 = self.targets_N[first : first + len(z_nV), None]
        z_n1 = z_nV.gather(1, target_n1)
        # The largest of the other logits says whether the target is right, and with it which logit is the largest: so the
        # softmax needs no pass of its own for that.
        others_n1 = z_nV.scatter_(1, target_n1, -torch.inf).amax(1, keepdim=True)
        z_nV.scatter_(1, target_n1, z_n1)
        nats_n1 = softmax_(z_nV, torch.maximum(others_n1, z_n1)) - z_n1
        self.nats_n.append(nats_n1[:, 0])
        self.right_n.append((z_n1 > others_n1)[:, 0])
        return nats_n1.sum()


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, wanted, softcap, temperature, recording):
        vocabulary, weight_dtype = len(weight_VD), weight_VD.dtype
        for_hidden, for_weight = (needed and recording for needed in ctx.needs_input_grad[:2])
        exact = torch.promote_types(hidden_ND.dtype, torch.float32)
        weight_VD = products.operand(weight_VD, hidden_ND)
        buffers = 1 + (softcap is not None) + wanted.buffers
        size = max(1, min(len(hidden_ND), BUFFER_BYTES // (buffers * vocabulary * exact.itemsize)))
        if hidden_ND.dtype == torch.bfloat16 and hidden_ND.is_cpu:
            size = min(size, max(FEWEST, NARROW_BYTES // (buffers * vocabulary * exact.itemsize)))
        made = hidden_ND.new_empty(buffers, size, vocabulary, dtype=exact)
        grad_hidden_ND = torch.empty_like(hidden_ND) if for_hidden else None
        grad_weight_VD = None
        loss = hidden_ND.new_zeros((), dtype=exact)
        for first in range(0, len(hidden_ND), size):
            h_nD = hidden_ND[first : first + size]
            z_nV, *spare = made[:, : len(h_nD)]
            tanh_nV = spare.pop() if softcap is not None else None
            logits_(z_nV, h_nD, weight_VD, softcap, temperature, tanh_nV)
            loss += wanted.differ(z_nV, first, *spare)
            if softcap is not None:
                torch.ops.aten.tanh_backward.grad_input(z_nV, tanh_nV, grad_input=z_nV)
            z_nV = products.operand(z_nV, h_nD)
            if for_hidden:
                products.mm(z_nV, weight_VD, out=grad_hidden_ND[first : first + size])
            if for_weight and grad_weight_VD is None:
                grad_weight_VD = products.mm(z_nV.T, h_nD, dtype=exact)
            elif for_weight:
                products.add_mm_(grad_weight_VD, z_nV.T, h_nD)
        if for_weight and grad_weight_VD is None:
            grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact)
        ctx.save_for_backward(grad_hidden_ND)
        # Not in save_for_backward, which is for activations: this tensor itself becomes the weight's gradient.
        ctx.grad_weight_VD, ctx.weight_dtype = grad_weight_VD, weight_dtype
        ctx.temperature, ctx.spent = temperature, False
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.spent:
            raise RuntimeError("the gradients of a loss by chunks can be taken once: they are scaled in place")
        # Scale in place and drop the reference, so that no second tensor of the weight's size exists.
        (grad_hidden_ND,), grad_weight_VD = ctx.saved_tensors, ctx.grad_weight_VD
        ctx.grad_weight_VD, ctx.spent = None, True
        grad = grad / ctx.temperature
        if grad_hidden_ND is not None:
            grad_hidden_ND.mul_(grad)
        if grad_weight_VD is not None:
            grad_weight_VD = grad_weight_VD.mul_(grad).to(ctx.weight_dtype)
        return grad_hidden_ND, grad_weight_VD, None, None, None, None


def all_logits(hidden_ND, weight_VD, softcap):
    """All N x V logits, in float32 at least."""
    z_NV = products.linear(hidden_ND, weight_VD, wide=True)
    z_NV = z_NV.to(torch.promote_types(z_NV.dtype, torch.float32))
    return z_NV if softcap is None else softcap * torch.tanh(z_NV / softcap)


def logits_(z_nV, hidden_nD, weight_VD, softcap, temperature, tanh_nV):
    """Write cap(h W^T) / temperature into z, and tanh(h W^T / softcap), which the gradient needs, into `tanh_nV`.

    `tanh_nV` may be z itself where no gradient is needed.
    """
    products.mm(hidden_nD, products.operand(weight_VD, hidden_nD).T, out=z_nV)
    if softcap is not None:
        cap_(z_nV, tanh_nV, softcap, 1 / temperature)
    elif temperature != 1:
        z_nV.div_(temperature)


def softmax_(z_nV, largest_n1=None):
    """Replace z by its softmax and return its log-sum-exp (n, 1), computed as max z - log(max softmax z).

    largest_n1: max z, where it is known. torch's softmax takes one pass over memory, also in place; its log-sum-exp takes
    three and a temporary tensor.
    """
    largest_n1 = z_nV.amax(1, keepdim=True) if largest_n1 is None else largest_n1
    torch.softmax(z_nV, 1, out=z_nV)
    return largest_n1 - z_nV.amax(1, keepdim=True).log()
