"""One further token of each of a few rows through a layer's parts, in C (`decode.c`): one call a part, with the norms
around it and the residual stream.

At this size a layer's time in torch is that of its hundred or so calls. A function here answers None where it cannot
take its arguments (a gradient is wanted, a type other than float32, a device other than the CPU, no compiler), and the
caller does the same in torch; last bits differ. `native.path("decode")` says which runs.

Shapes: B rows, D model width, H query heads, K key/value heads, C channels a head, S slots, F ffn hidden, R recurrent
width, J taps. A map is a pair (weight, bias or None).
"""

from typing import NamedTuple

import torch

from arch.kernels import native

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
    """What a part is between: y = x + after(part(before(x))) where `residual`.

    weights: of RMSNorm before and after, None for none. eps: of both.
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
    """x (..., inputs) through one map, (..., outputs); each y of it softcap tanh(y / softcap) where there is one."""
    library, given = _ready(x, weight, bias)
    if library is None:
        return None
    outputs, inputs = weight.shape
    y = x.new_empty((*x.shape[:-1], outputs))
    shapes = x.numel() // inputs, inputs, outputs
    library.linear(*given, y.data_ptr(), *shapes, softcap or 0.0, torch.get_num_threads())
    return y


def gated(x_B1D, gate, up, down, gelu, around=ALONE):
    """The part is down(activation(gate(x)) up(x)); the activation is gelu's tanh form, or silu."""
    library, given = _ready(x_B1D, *around.weights, *gate, *up, *down)
    if library is None:
        return None
    (rows, _, dim), hidden = x_B1D.shape, gate[0].shape[0]
    y_B1D, work = torch.empty_like(x_B1D), x_B1D.new_empty(rows * (2 * hidden + dim))
    own = y_B1D.data_ptr(), work.data_ptr()
    library.gated(*given, *own, *around.eps, around.residual, rows, dim, hidden, gelu, torch.get_num_threads())
    return y_B1D


def attention(x_B1D, q, k, v, o, q_norm, k_norm, cos, sin, k_BKSC, v_BKSC, pos_B, seen, eps, scale, softcap, around=ALONE):
    """The part is o of what each row's token sees in its ring, into which its key and value are written first, at
    `seen` mod S.

    q_norm, k_norm: weights of RMSNorm, or None. cos, sin (1 or B, ..., c): the first c pairs are turned.
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
    """The part is Griffin's recurrent block; the convolution's last J - 1 inputs and h are moved on in place."""
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
    """(library, addresses), None standing for no tensor; (None, None) where it cannot take them."""
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
