"""activation(gate) * up, the product in a gated feed-forward network and in Griffin's recurrent block.

There is a plain torch path, and a C path for float32 and bfloat16 on the CPU (`glu.c`: one pass forward, one backward, and
one rounding of what they write), which has only the activations in COMPILED.
`native.path("glu")` says which one runs on the CPU.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from arch.kernels import native
from arch.kernels.recomputed import recomputed

ACTIVATIONS = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "relu": F.relu}
COMPILED = {"silu": 0, "gelu_tanh": 1}  # the activations that glu.c and decode.c have, by their codes there
SIGNATURES = {
    "glu": [native.POINTER] * 3 + [native.INTEGER] * 3,
    "glu_backward": [native.POINTER] * 5 + [native.INTEGER] * 3,
}


def reference(gate, up, activation="gelu_tanh"):
    """activation(gate) * up in plain torch."""
    return ACTIVATIONS[activation](gate) * up


def glu(gate, up, activation="gelu_tanh"):
    """The same as `reference`, by the fastest path that takes these tensors."""
    if activation in COMPILED and gate.shape == up.shape:
        library = native.library("glu", (gate, up), SIGNATURES)
        if library is not None:
            return _GLU.apply(gate, up, COMPILED[activation], library)
    return recomputed(partial(reference, activation=activation), gate, up)


class _GLU(torch.autograd.Function):
    """Saves only its two inputs for the backward pass."""

    @staticmethod
    def forward(ctx, gate, up, code, library):
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.code, ctx.library = code, library
        y = torch.empty_like(gate)
        library.glu(gate.data_ptr(), up.data_ptr(), y.data_ptr(), y.numel(), code, torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        given = dy.contiguous(), *ctx.saved_tensors
        own = torch.empty_like(given[1]), torch.empty_like(given[2])
        addresses = (x.data_ptr() for x in (*given, *own))
        ctx.library.glu_backward(*addresses, dy.numel(), ctx.code, torch.get_num_threads())
        return *own, None, None
