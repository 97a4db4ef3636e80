"""RMSNorm with its own gradient.

Shapes: N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from arch.kernels import rms_norm
from arch.parameters import constant, parameter


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (1 + w) in float32, cast last; w starts at 0 (Gemma 2 and 3, Griffin)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = parameter((width,), "vector", constant(0.0))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return _normalised(x, self.weight, self.eps)[0]


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), (x.shape[-1],), 1 + weight.to(wide), eps).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with its own gradient, in fewer passes over memory. It saves x and one number per token.

    With r = (mean(x^2) + eps)^-1/2, g = 1 + w, and a the gradient of y:
    dx = r a g - x r^3 mean(a g x), dw = sum over tokens of a x r.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.compiled = rms_norm.compiled(x, weight)
        y, r = rms_norm.forward(ctx.compiled, x, weight, eps) if ctx.compiled else _normalised(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, r = ctx.saved_tensors
        if ctx.compiled and grad.dtype is x.dtype and rms_norm.compiled(grad, weight):
            return *rms_norm.backward(ctx.compiled, grad, x, weight, r), None
        x_ND, a_ND, r_N1 = x.flatten(0, -2).to(r.dtype), grad.flatten(0, -2).to(r.dtype), r.view(-1, 1)
        g_D = 1 + weight.to(r.dtype)
        ax_ND = a_ND * x_ND
        # Under autocast on CUDA, mv would round to autocast's type. With `out=` it does not.
        dw_D = torch.mv(ax_ND.t(), r_N1[:, 0], out=torch.empty_like(g_D))
        pull_N1 = torch.mv(ax_ND, g_D, out=ax_ND.new_empty(len(ax_ND)))[:, None].mul_(r_N1.pow(3)).div_(x_ND.shape[1])
        dx_ND = torch.mul(a_ND, g_D, out=ax_ND).mul_(r_N1).addcmul_(x_ND, pull_N1, value=-1)
        return dx_ND.view(x.shape).to(x.dtype), dw_D.to(weight.dtype), None


def _normalised(x, weight, eps):
    """(y, r): the output of RMSNorm, and 1 / sqrt(mean(x^2) + eps) of each token."""
    wide = torch.promote_types(x.dtype, torch.float32)
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = x.to(wide) * r
    return torch.addcmul(y, y, weight.to(wide), out=y).to(x.dtype), r
