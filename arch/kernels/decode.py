"""Decode one further token for each of a few rows, in C (`decode.c`): one call per part of a layer.

A call includes the norms around the part and the residual sum. In torch, a layer at this size spends its time on the
overhead of about a hundred calls. A function here returns None if it cannot take its arguments: gradients are enabled,
a type other than float32, a device other than the CPU, a tensor that is not dense, or no compiler. The caller then does
the same in torch; the last bits differ. `native.path("decode")` says which path runs.

Shapes: B rows, D model width, H query heads, K key/value heads, C channels per head, S slots, F ffn hidden, R recurrent
width, J taps. A map is a pair (weight, bias or None).
"""

from typing import NamedTuple

import torch

from arch.kernels import native
from arch.kernels.glu import COMPILED

POINTER, INTEGER, REAL = native.POINTER, native.INTEGER, native.REAL
SIGNATURES = {
    "norm": [POINTER] * 3 + [INTEGER] * 2 + [REAL],
    "linear": [POINTER] * 4 + [INTEGER] * 3 + [REAL] + [INTEGER],
    "gated": [POINTER] * 11 + [REAL] * 2 + [INTEGER] * 6,
    "attention": [POINTER] * 20 + [REAL] * 2 + [INTEGER] * 10 + [REAL] * 3 + [INTEGER],
    "recurrent": [POINTER] * 21 + [REAL] * 2 + [INTEGER] * 7,
}
SHARES = 16  # as in decode.c


class Around(NamedTuple):
    """The norms and the residual sum around a part: y = x + after(part(before(x))), without `x +` if not `residual`.

    weights: RMSNorm weights before and after the part, None for no norm. eps: the epsilons of both.
    """

    weights: tuple = (None, None)
    eps: tuple = (0.0, 0.0)
    residual: bool = False


ALONE = Around()  # y = part(x)


def norm(x, weight, eps):
    """RMSNorm of x (..., D)."""
    library, given = _ready(x, weight)
    if library is None:
        return None
    y, width = torch.empty_like(x), x.shape[-1]
    library.norm(*given, y.data_ptr(), x.numel() // width, width, eps)
    return y


def linear(x, weight, bias=None, softcap=None):
    """y (..., outputs), a linear map of x (..., inputs); with a softcap, softcap tanh(y / softcap)."""
    library, given = _ready(x, weight, bias)
    if library is None:
        return None
    outputs, inputs = weight.shape
    y = x.new_empty((*x.shape[:-1], outputs))
    shapes = x.numel() // inputs, inputs, outputs
    library.linear(*given, y.data_ptr(), *shapes, softcap or 0.0, torch.get_num_threads())
    return y


def gated(x_B1D, gate, up, down, activation, around=ALONE):
    """down(activation(gate(x)) up(x)). activation: a name; None where it is not in `glu.COMPILED`."""
    if activation not in COMPILED:
        return None
    library, given = _ready(x_B1D, *around.weights, *gate, *up, *down)
    if library is None:
        return None
    (rows, _, dim), hidden = x_B1D.shape, gate[0].shape[0]
    y_B1D, work = torch.empty_like(x_B1D), x_B1D.new_empty(rows * (2 * hidden + dim))
    own = y_B1D.data_ptr(), work.data_ptr()
    shapes = rows, dim, hidden, COMPILED[activation]
    library.gated(*given, *own, *around.eps, around.residual, *shapes, torch.get_num_threads())
    return y_B1D


def attention(x_B1D, q, k, v, o, q_norm, k_norm, cos, sin, k_BKSC, v_BKSC, pos_B, seen, eps, scale, softcap, around=ALONE):
    """o(attention of each row's token over its ring). The token's key and value are first written to slot `seen` mod S.

    q_norm, k_norm: RMSNorm weights, or None. cos, sin (1 or B, ..., c): angles of the first c pairs, which are rotated.
    pos_B: int64 positions within the document. softcap: None for none.
    """
    library, given = _ready(x_B1D, *around.weights, *q, *k, *v, *o, q_norm, k_norm, cos, sin, k_BKSC, v_BKSC)
    if library is None:
        return None
    (rows, _, dim), (_, kv_heads, slots, channels) = x_B1D.shape, k_BKSC.shape
    heads = q[0].shape[0] // channels
    work = x_B1D.new_empty(rows * ((heads + 2 * kv_heads) * channels + heads * SHARES * (channels + 2) + dim))
    y_B1D = torch.empty_like(x_B1D)
    own = pos_B.data_ptr(), y_B1D.data_ptr(), work.data_ptr()
    shapes = rows, dim, heads, kv_heads, channels, sin.shape[-1], cos.shape[0] == 1, slots, seen
    library.attention(*given, *own, *around.eps, around.residual, *shapes, eps, scale, softcap or 0.0, torch.get_num_threads())
    return y_B1D


def recurrent(x_B1D, x, y, o, taps_JR, bias_R, recurrence_gate, input_gate, slope_R, tail_BJR, h_BR, pos_B, around=ALONE):
    """Griffin's recurrent block. tail_BJR (the convolution's last J - 1 inputs) and h_BR are updated in place."""
    maps = *x, *y, *o, taps_JR, bias_R, *recurrence_gate, *input_gate, slope_R
    library, given = _ready(x_B1D, *around.weights, *maps, tail_BJR, h_BR)
    if library is None:
        return None
    (rows, _, dim), (taps, width) = x_B1D.shape, taps_JR.shape
    y_B1D, work = torch.empty_like(x_B1D), x_B1D.new_empty(rows * (5 * width + dim))
    own = pos_B.data_ptr(), y_B1D.data_ptr(), work.data_ptr()
    shapes = rows, dim, width, taps, recurrence_gate[0].shape[0]
    library.recurrent(*given, *own, *around.eps, around.residual, *shapes, torch.get_num_threads())
    return y_B1D


def _ready(*tensors):
    """(library, addresses of the tensors), with None for a tensor that is None; (None, None) if C cannot take them."""
    if torch.is_grad_enabled():
        return None, None
    library, addresses = native.library("decode", (), SIGNATURES), []
    for x in tensors if library else ():
        if x is None:
            addresses.append(None)
        elif x.dtype is torch.float32 and x.is_cpu and x.is_contiguous():
            addresses.append(x.data_ptr())
        else:
            return None, None
    return library, addresses
