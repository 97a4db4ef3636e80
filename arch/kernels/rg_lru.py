"""The gated recurrence of the RG-LRU, from the outputs of the gates' maps to the states (Griffin, equations 1 to 4).

There is a plain torch path around `linear_scan`, and a C path for float32 and bfloat16 on the CPU (`rg_lru.c`: one pass
forward, one backward). `native.path("rg_lru")` says which one runs on the CPU. Gates, decays and the states from token to
token are float32 at least; with inputs in bfloat16, the states that are returned for all tokens are rounded once.

Shapes: B rows, T tokens, R channels. For the backward pass, both paths save only the inputs and the states.
"""

import math

import torch
from torch.utils.flop_counter import register_flop_formula

from arch.kernels import native
from arch.kernels.linear_scan import chosen, chunked_backward, linear_scan

SIGNATURES = {
    "rg_lru": [native.POINTER] * 8 + [native.INTEGER] * 4,
    "rg_lru_backward": [native.POINTER] * 14 + [native.INTEGER] * 4,
}


def reference(rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR):
    """(All states h_BTR of h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t in u's type, the last one in h0's type).

    r, i = sigmoid(rho), sigmoid(iota), and a_t = exp(slope r_t) with slope <= 0. At tokens where reset_BT (bool) is
    true, a_t is 0 and the square root is 1.
    """
    given, given_h0 = u_BTR.dtype, h0_BR.dtype
    rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR = _wide(rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR)
    r_BTR, i_BTR = torch.sigmoid(rho_BTR), torch.sigmoid(iota_BTR)
    log_a_BTR, reset_BT1 = slope_R * r_BTR, reset_BT[..., None]
    gain_BTR = torch.where(reset_BT1, 1.0, CappedSqrt.apply(-torch.expm1(2 * log_a_BTR)))
    a_BTR = torch.where(reset_BT1, 0.0, log_a_BTR.exp())
    h_BTR = linear_scan(a_BTR, gain_BTR * i_BTR * u_BTR, h0_BR)
    last_BR = h_BTR[:, -1] if h_BTR.shape[1] else h0_BR
    return h_BTR.to(given), last_BR.to(given_h0)


def _wide(*tensors):
    """The tensors in the widest of their types, at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return [x.to(dtype) for x in tensors]


class CappedSqrt(torch.autograd.Function):
    """sqrt(x) with its derivative 1 / (2 sqrt(x)) capped at 1000 (RecurrentGemma, "Model architecture")."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sqrt()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * _steepness(x)


def _steepness(x):
    return torch.rsqrt((4 * x).clamp(min=1e-6))


@torch.library.custom_op("archbench::rg_lru", mutates_args=())
def rg_lru(
    rho_BTR: torch.Tensor,
    iota_BTR: torch.Tensor,
    u_BTR: torch.Tensor,
    slope_R: torch.Tensor,
    reset_BT: torch.Tensor,
    h0_BR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `reference`, by the fastest path that takes these tensors. Raises ValueError if shapes disagree."""
    shapes = [tuple(x.shape) for x in (iota_BTR, u_BTR, slope_R, reset_BT, h0_BR)]
    rows, tokens, width = whole = tuple(rho_BTR.shape)
    if shapes != [whole, whole, (width,), (rows, tokens), (rows, width)] or reset_BT.dtype != torch.bool:
        raise ValueError(f"rg_lru: shapes {[whole, *shapes]} do not agree, or reset is {reset_BT.dtype}, not bool")
    library = None if chosen() else native.library("rg_lru", (rho_BTR, iota_BTR, u_BTR), SIGNATURES, small=(slope_R, h0_BR))
    if library is None:
        h_BTR, last_BR = reference(rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR)
        return h_BTR, last_BR.clone()  # the results of an operation share no memory
    inputs = [x.contiguous() for x in (rho_BTR, iota_BTR, u_BTR, slope_R.float(), reset_BT, h0_BR.float())]
    h_BTR, last_BR = torch.empty_like(inputs[2]), torch.empty_like(inputs[5])
    library.rg_lru(*(x.data_ptr() for x in (*inputs, h_BTR, last_BR)), *whole, torch.get_num_threads())
    return h_BTR, last_BR.to(h0_BR.dtype)


@torch.library.custom_op("archbench::rg_lru_backward", mutates_args=())
def rg_lru_backward(
    g_BTR: torch.Tensor,
    g_last_BR: torch.Tensor,
    rho_BTR: torch.Tensor,
    iota_BTR: torch.Tensor,
    u_BTR: torch.Tensor,
    slope_R: torch.Tensor,
    reset_BT: torch.Tensor,
    h0_BR: torch.Tensor,
    h_BTR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of rho, iota, u, slope and h0, given those of the states."""
    inputs = (g_BTR, g_last_BR, rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR, h_BTR)
    large, small = (g_BTR, rho_BTR, iota_BTR, u_BTR, h_BTR), (g_last_BR, slope_R, h0_BR)
    library = None if chosen() else native.library("rg_lru", large, SIGNATURES, small)
    if library is None:
        return _plain_backward(*inputs, torch.ops.archbench.linear_scan_backward)
    inputs = [x.float().contiguous() if any(x is each for each in small) else x.contiguous() for x in inputs]
    drho, diota, du = (torch.empty_like(inputs[2]) for _ in range(3))
    slopes_BR, dh0_BR = torch.empty_like(inputs[7], dtype=torch.float64), torch.empty_like(inputs[7])
    pointers = (x.data_ptr() for x in (*inputs, drho, diota, du, slopes_BR, dh0_BR))
    library.rg_lru_backward(*pointers, *rho_BTR.shape, torch.get_num_threads())
    return drho, diota, du, slopes_BR.sum(0).to(slope_R.dtype), dh0_BR.to(h0_BR.dtype)


def _plain_backward(g_BTR, g_last_BR, rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR, h_BTR, scan_backward):
    types = [x.dtype for x in (rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR)]
    wide = _wide(g_BTR, g_last_BR, rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR, h_BTR)
    g_BTR, g_last_BR, rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR, h_BTR = wide
    g_BTR = torch.cat([g_BTR[:, :-1], g_BTR[:, -1:] + g_last_BR[:, None]], 1)
    r_BTR, i_BTR, reset_BT1 = torch.sigmoid(rho_BTR), torch.sigmoid(iota_BTR), reset_BT[..., None]
    log_a_BTR = slope_R * r_BTR
    rest_BTR = -torch.expm1(2 * log_a_BTR)
    a_BTR = torch.where(reset_BT1, 0.0, log_a_BTR.exp())
    da_BTR, s_BTR, dh0_BR = scan_backward(g_BTR, a_BTR, h0_BR, h_BTR)
    if not h_BTR.shape[1]:
        dh0_BR = g_last_BR.clone()  # the results of an operation share no memory
    dlog_a_BTR = a_BTR * (da_BTR - 2 * a_BTR * _steepness(rest_BTR) * s_BTR * i_BTR * u_BTR)
    inside_BTR = s_BTR * torch.where(reset_BT1, 1.0, rest_BTR.sqrt())
    drho_BTR = dlog_a_BTR * slope_R * r_BTR * (1 - r_BTR)
    diota_BTR = inside_BTR * u_BTR * i_BTR * (1 - i_BTR)
    gradients = drho_BTR, diota_BTR, inside_BTR * i_BTR, (dlog_a_BTR * r_BTR).sum((0, 1)), dh0_BR
    return tuple(x.to(dtype) for x, dtype in zip(gradients, types, strict=True))


@rg_lru.register_fake
def _(rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR):
    return u_BTR.new_empty(u_BTR.shape), h0_BR.new_empty(h0_BR.shape)


@rg_lru_backward.register_fake
def _(g_BTR, g_last_BR, rho_BTR, iota_BTR, u_BTR, slope_R, reset_BT, h0_BR, h_BTR):
    return tuple(x.new_empty(x.shape) for x in (rho_BTR, iota_BTR, u_BTR, slope_R, h0_BR))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[0])


def _backward(ctx, g_BTR, g_last_BR):
    if torch.is_grad_enabled():  # a second derivative is wanted: use differentiable steps
        *gates, dh0_BR = _plain_backward(g_BTR, g_last_BR, *ctx.saved_tensors, chunked_backward)
    else:
        *gates, dh0_BR = rg_lru_backward(g_BTR, g_last_BR, *ctx.saved_tensors)
    return *gates, None, dh0_BR


rg_lru.register_autograd(_backward, setup_context=_keep)


@register_flop_formula([torch.ops.archbench.rg_lru, torch.ops.archbench.rg_lru_backward])
def _flops(first_shape, *shapes, out_shape=None, **kwargs):
    """The recurrence's multiply and add per channel and token, as for `linear_scan`; the rest is element-wise."""
    return 2 * math.prod(first_shape)
