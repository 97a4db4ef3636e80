"""RMSNorm in C for float32 and bfloat16 on the CPU (`rms_norm.c`: one pass forward, one backward). Weights are float32 in C.

`arch.norm` has the torch path, which runs where the C path cannot. `native.path("rms_norm")` says which one runs.
"""

import torch

from arch.kernels import native

SIGNATURES = {
    "rms_norm": [native.POINTER] * 4 + [native.INTEGER] * 2 + [native.REAL, native.INTEGER],
    "rms_norm_backward": [native.POINTER] * 6 + [native.INTEGER] * 4,
}
BLOCK = 64  # rows whose part of the weight's gradient one thread sums in order


def compiled(x, weight):
    """The C functions for x (or the gradient of y) and the weight, or None if they cannot take these tensors.

    Nor a weight of another width, which C would read beyond its end and torch refuses.
    """
    if weight.shape != x.shape[-1:]:
        return None
    return native.library("rms_norm", (x,), SIGNATURES, small=(weight,))


def forward(library, x, weight, eps):
    """(y, r): x / sqrt(mean(x^2) + eps) * (1 + weight) over the last axis, and 1 / sqrt(mean(x^2) + eps) (..., 1).

    y is of x's type, r float32.
    """
    x, weight = x.contiguous(), weight.float().contiguous()
    y, r = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    addresses = (each.data_ptr() for each in (x, weight, y, r))
    library.rms_norm(*addresses, r.numel(), x.shape[-1], eps, torch.get_num_threads())
    return y, r


def backward(library, dy, x, weight, r):
    """The gradients of x and of weight, each of its type. dy is of x's type."""
    dy, x, wide = dy.contiguous(), x.contiguous(), weight.float().contiguous()
    rows, width = r.numel(), x.shape[-1]
    dx, dw = torch.empty_like(x), x.new_empty(-(-rows // BLOCK), width, dtype=torch.float32)
    addresses = (each.data_ptr() for each in (dy, x, wide, r, dx, dw))
    library.rms_norm_backward(*addresses, rows, width, BLOCK, torch.get_num_threads())
    return dx, dw.sum(0).to(weight.dtype)
