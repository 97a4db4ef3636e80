"""A plain form that keeps its inputs only and is computed again for its gradient.

A compiled path that keeps nothing but its inputs has it as its other path: then a step holds the same memory whichever
of the two runs, and what `arch.cost` measures on the meta device, where only the plain form can run, is right for both.
"""

import torch
from torch.autograd.function import once_differentiable


def recomputed(function, *tensors):
    """`function(*tensors)`, one tensor. What it needs beside tensors must not want a gradient.

    While torch.compile traces, it is called as it stands: what is kept is the compiler's choice there.
    """
    if torch.compiler.is_compiling():
        return function(*tensors)
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.function = function
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        given = [x.detach().requires_grad_(wanted) for x, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)]
        with torch.enable_grad():
            y = ctx.function(*given)
        gradients = iter(torch.autograd.grad(y, [x for x in given if x.requires_grad], dy))
        return None, *(next(gradients) if x.requires_grad else None for x in given)
