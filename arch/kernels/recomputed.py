"""Run a plain torch function that saves only its inputs and is recomputed for its gradient.

It is the torch counterpart of a compiled path that also saves only its inputs. A training step then needs the same
memory on both paths, so what `arch.cost` measures on the meta device, where only torch can run, holds for both.
"""

import torch
from torch.autograd.function import once_differentiable


def recomputed(function, *tensors):
    """`function(*tensors)`, which returns one tensor. Anything else that it uses must not need a gradient.

    While torch.compile traces, the function is called directly, and the compiler decides what to save.
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
