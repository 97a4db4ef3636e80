"""Rotary positions: pairs of channels turn by an angle that grows with the position (Su et al. 2021, RoFormer).

Shapes: B rows, T tokens, H heads, C channels per head, c = pairs of rotated channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from arch.kernels import rotary as kernel
from arch.layout import TokenLayout


def rotary(x_BTHC: Tensor, cos_BT1C: Tensor, sin_BT1c: Tensor) -> Tensor:
    """Rotate each head's first 2 c channels by `angles`; channel i < c forms a pair with channel c + i."""
    if torch.is_grad_enabled():
        return _Rotary.apply(x_BTHC, cos_BT1C, sin_BT1c)
    return _turned(x_BTHC, cos_BT1C, sin_BT1c, 1)


def angles(layout: TokenLayout, channels: int, rope: Any) -> tuple[Tensor, Tensor]:
    """Cosine of every channel (B, T, 1, C), 1 for channels that are not rotated, and sine of the pairs (B, T, 1, c).

    B is 1 where all rows have the same positions.
    """

    def make():
        cos_BT1c, sin_BT1c = pairs(layout, channels, rope)
        still = channels - 2 * cos_BT1c.shape[-1]
        return F.pad(torch.cat([cos_BT1c, cos_BT1c], -1), (0, still), value=1.0), sin_BT1c

    return layout.memo(("rotary", channels, rope), make)


def pairs(layout: TokenLayout, channels: int, rope: Any) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the pairs (B, T, 1, c); B is 1 where all rows have the same positions.

    Only the first `width` = `rope.fraction` * channels channels are rotated. The angle of pair i at position p is
    p * theta^(-2i / width) / scale, in float32. rope: None for no rotation.
    """

    def make():
        width = int(channels * rope.fraction) if rope else 0
        angle_BT1c = layout.distinct_pos_BT[..., None, None].float() * _rates(width, rope, layout.pos_BT.device)
        return angle_BT1c.cos(), angle_BT1c.sin()

    return layout.memo(("pairs", channels, rope), make)


def _rates(width, rope, device):
    """Radians per position of every pair. Cached, because single-token decoding is sensitive to each torch call."""
    key = width, rope, device
    if key not in _KEPT_RATES:
        i_c = torch.arange(0, width, 2, dtype=torch.float32, device=device)
        rates_c = i_c if rope is None else rope.theta ** (-i_c / width) / rope.scale
        if type(rates_c) is not torch.Tensor or torch.compiler.is_compiling():
            return rates_c  # do not cache a placeholder of a tensor that is being traced
        _KEPT_RATES[key] = rates_c
    return _KEPT_RATES[key]


_KEPT_RATES: dict[tuple[Any, ...], Tensor] = {}


class _Rotary(torch.autograd.Function):
    """(x, y) -> (x cos - y sin, y cos + x sin) for the pairs of `rotary`; the gradient rotates back."""

    @staticmethod
    def forward(ctx, x_BTHC, cos_BT1C, sin_BT1c):
        ctx.save_for_backward(cos_BT1C, sin_BT1c)
        return _turned(x_BTHC, cos_BT1C, sin_BT1c, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTHC):
        cos_BT1C, sin_BT1c = ctx.saved_tensors
        return _turned(grad_BTHC, cos_BT1C, sin_BT1c, -1), None, None


def _turned(x_BTHC, cos_BT1C, sin_BT1c, sign):
    y_BTHC = kernel.turned(x_BTHC, cos_BT1C, sin_BT1c, sign)
    return _plain(x_BTHC, cos_BT1C, sin_BT1c, sign) if y_BTHC is None else y_BTHC


def _plain(x_BTHC, cos_BT1C, sin_BT1c, sign):
    half = sin_BT1c.shape[-1]
    wide = x_BTHC.to(torch.promote_types(x_BTHC.dtype, torch.float32))
    y_BTHC = wide * cos_BT1C
    y_BTHC[..., :half].addcmul_(wide[..., half : 2 * half], sin_BT1c, value=-sign)
    y_BTHC[..., half : 2 * half].addcmul_(wide[..., :half], sin_BT1c, value=sign)
    return y_BTHC.to(x_BTHC.dtype)
