"""Decode one further token for each of a few rows, in C (`decode.c`): one call per part of a layer, or one per token.

A part of a layer is computed with the norms around it and the residual sum. In torch, a layer at this size spends its time
on the overhead of about a hundred calls. Weights, keys and values are float32 or bfloat16, all of one type; everything in
between is float32, and a result is rounded once. A function here returns None if it cannot take its arguments: gradients
are enabled, another type, a device other than the CPU, a tensor that is not dense, or no compiler. The caller then does the
same in torch; the last bits differ. `native.path("decode")` says which path runs.

Shapes: B rows, D model width, H query heads, K key/value heads, C channels per head, S slots, F ffn hidden, R recurrent
width, J taps, V vocabulary. A map is a pair (weight, bias or None).
"""

import ctypes
from typing import Any, NamedTuple

import torch

from arch.kernels import native
from arch.kernels.glu import COMPILED

POINTER, INTEGER, REAL = native.POINTER, native.INTEGER, native.REAL
SIGNATURES = {
    "norm": [POINTER] * 4 + [INTEGER] * 2 + [REAL],
    "linear": [POINTER] * 5 + [INTEGER] * 3 + [REAL] + [INTEGER],
    "part": [POINTER] * 5 + [INTEGER] * 3,
    "token": [POINTER] * 5 + [INTEGER] * 2,
}
SHARES = 16  # as in decode.c
KINDS = {name: code for code, name in enumerate(("gated", "attention", "recurrent"))}  # as in decode.c


class Map(ctypes.Structure):
    """As in rows.h."""

    _fields_ = [("weight", POINTER), ("bias", POINTER)]


class _Part(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("residual", ctypes.c_int32),
        ("before", POINTER),
        ("after", POINTER),
        ("eps_before", REAL),
        ("eps_after", REAL),
    ]


class _Gated(ctypes.Structure):
    _fields_ = [("part", _Part), ("gate", Map), ("up", Map), ("down", Map), ("hidden", INTEGER), ("gelu", INTEGER)]


class _Attention(ctypes.Structure):
    _fields_ = [
        ("part", _Part),
        *((name, Map) for name in "qkvo"),
        *((name, POINTER) for name in ("q_norm", "k_norm", "ring_k", "ring_v", "cosine", "sine")),
        *((name, INTEGER) for name in ("heads", "kv_heads", "channels", "slots", "seen", "half", "alike")),
        *((name, REAL) for name in ("eps", "scale", "softcap")),
    ]


class _Recurrent(ctypes.Structure):
    _fields_ = [
        ("part", _Part),
        *((name, Map) for name in ("x", "y", "o", "taps", "r", "i")),
        *((name, POINTER) for name in ("tail", "h", "slope")),
        *((name, INTEGER) for name in ("width", "count", "blocks")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, POINTER) for name in ("embedding", "norm", "head", "parts")),
        *((name, INTEGER) for name in ("count", "dim", "vocabulary", "unknown")),
        *((name, REAL) for name in ("scale", "eps", "softcap")),
    ]


class Around(NamedTuple):
    """The norms and the residual sum around a part: y = x + after(part(before(x))), without `x +` if not `residual`.

    weights: RMSNorm weights before and after the part, None for no norm. eps: the epsilons of both.
    """

    weights: tuple = (None, None)
    eps: tuple = (0.0, 0.0)
    residual: bool = False


ALONE = Around()  # y = part(x)


class Part(NamedTuple):
    """A part with the addresses of its weights. The weights must live as long as it is used.

    structure: as in decode.c. room: float32 numbers of scratch memory per row. dtype: of weights, keys and values.
    """

    structure: Any
    room: int
    dtype: torch.dtype

    def place(self, k_BKSC, v_BKSC, seen, rows):
        """Give attention its ring of keys and values. False if C cannot take these."""
        where, structure = addresses(self.dtype, k_BKSC, v_BKSC), self.structure
        shape = rows, structure.kv_heads, k_BKSC.shape[2], structure.channels
        if where is None or k_BKSC.shape != shape or v_BKSC.shape != shape:
            return False
        structure.ring_k, structure.ring_v = where
        structure.slots, structure.seen = shape[2], seen
        return True

    def turn(self, cos, sin):
        """Give attention the angles of its token: cos, sin (1 or B, ..., c) of the first c pairs. False if C cannot."""
        where, structure = addresses(torch.float32, cos, sin), self.structure
        if where is not None:
            structure.cosine, structure.sine = where
            structure.half, structure.alike = sin.shape[-1], cos.shape[0] == 1
        return where is not None

    def carry(self, tail_BJR, h_BR, rows):
        """Give Griffin's recurrent block its state, which is updated in place. False if C cannot take it.

        h_BR: None for a block without the recurrence.
        """
        tail, h, structure = addresses(self.dtype, tail_BJR), addresses(torch.float32, h_BR), self.structure
        shape = rows, structure.count - 1, structure.width
        if tail is None or h is None or tail_BJR.shape != shape:
            return False
        if (h_BR is None) != (structure.blocks == 0) or (h_BR is not None and h_BR.shape != (rows, structure.width)):
            return False
        structure.tail, structure.h = *tail, *h
        return True

    def fade(self, slope_R):
        """Give Griffin's recurrent block the log of its decay at r = 1. False if C cannot take it."""
        where = addresses(torch.float32, slope_R)
        if where is not None:
            (self.structure.slope,) = where
        return where is not None


def norm(x, weight, eps):
    """RMSNorm of x (..., D)."""
    compiled, where = library(x), addresses(x.dtype, x, weight)
    if compiled is None or where is None:
        return None
    y, work, width = torch.empty_like(x), scratch(2 * x.numel()), x.shape[-1]
    compiled.norm(*where, y.data_ptr(), work.data_ptr(), x.numel() // width, width, eps)
    return y


def linear(x, weight, bias=None, softcap=None):
    """y (..., outputs) in float32, a linear map of x (..., inputs); with a softcap, softcap tanh(y / softcap)."""
    compiled, where = library(x), addresses(x.dtype, x, weight, bias)
    if compiled is None or where is None:
        return None
    outputs, inputs = weight.shape
    y, work = x.new_empty((*x.shape[:-1], outputs), dtype=torch.float32), scratch(x.numel())
    own = y.data_ptr(), work.data_ptr()
    compiled.linear(*where, *own, x.numel() // inputs, inputs, outputs, softcap or 0.0, torch.get_num_threads())
    return y


def gated_part(gate, up, down, activation, around=ALONE):
    """down(activation(gate(x)) up(x)) as a Part. activation: a name; None where it is not in `glu.COMPILED`."""
    if activation not in COMPILED:
        return None
    dtype = gate[0].dtype
    where = addresses(dtype, *around.weights, *gate, *up, *down)
    if where is None:
        return None
    hidden, dim = gate[0].shape
    maps = where[2:4], where[4:6], where[6:8]
    structure = _Gated(_around("gated", where, around), *map(tuple, maps), hidden, COMPILED[activation])
    return Part(structure, 2 * hidden + dim, dtype)


def attention_part(q, k, v, o, q_norm, k_norm, channels, eps, scale, softcap, around=ALONE):
    """o(attention of each row's token over its ring) as a Part that must be given `place` and `turn`.

    The token's key and value are first written to slot `seen` mod S. q_norm, k_norm: RMSNorm weights, or None. softcap:
    None for none.
    """
    dtype = q[0].dtype
    where = addresses(dtype, *around.weights, *q, *k, *v, *o, q_norm, k_norm)
    if where is None:
        return None
    heads, kv_heads = q[0].shape[0] // channels, k[0].shape[0] // channels
    structure = _Attention(_around("attention", where, around), *(tuple(where[i : i + 2]) for i in (2, 4, 6, 8)), *where[10:])
    structure.heads, structure.kv_heads, structure.channels = heads, kv_heads, channels
    structure.eps, structure.scale, structure.softcap = eps, scale, softcap or 0.0
    room = (heads + 2 * kv_heads) * channels + heads * SHARES * (channels + 2) + q[0].shape[1]
    return Part(structure, room, dtype)


def recurrent_part(x, y, o, taps, recurrence_gate=(None, None), input_gate=(None, None), around=ALONE):
    """Griffin's recurrent block as a Part that must be given `carry` and `fade`. taps: (J, R) of the convolution, (R).

    Without gates it is the block without its recurrence, o(conv(x) gelu(y)), which needs no `fade`.
    """
    dtype = x[0].dtype
    where = addresses(dtype, *around.weights, *x, *y, *o, *taps, *recurrence_gate, *input_gate)
    if where is None:
        return None
    count, width = taps[0].shape
    structure = _Recurrent(_around("recurrent", where, around), *(tuple(where[i : i + 2]) for i in range(2, 14, 2)))
    structure.width, structure.count = width, count
    structure.blocks = 0 if recurrence_gate[0] is None else recurrence_gate[0].shape[0]
    return Part(structure, 5 * width + x[0].shape[1], dtype)


def run(part, x_B1D, pos_B):
    """The part's y (B, 1, D) of x; None if C cannot take x. pos_B: int64 positions within the document, None for an ffn."""
    compiled = library(x_B1D)
    if part is None or compiled is None or x_B1D.dtype is not part.dtype or not x_B1D.is_contiguous():
        return None
    rows, _, dim = x_B1D.shape
    y_B1D, work = torch.empty_like(x_B1D), scratch(rows * (2 * dim + part.room))
    pos = pos_B if pos_B is None else pos_B.data_ptr()
    own = pos, y_B1D.data_ptr(), work.data_ptr()
    compiled.part(ctypes.addressof(part.structure), x_B1D.data_ptr(), *own, rows, dim, torch.get_num_threads())
    return y_B1D


def model_of(parts, embedding, norm, head, scale, eps, softcap):
    """A whole model as the structure that `token` takes; the parts must live as long. None if C cannot take its weights.

    embedding, head (V, D). scale: of the embedding. norm, eps: of the last RMSNorm. softcap: of the logits, or None.
    """
    where = addresses(embedding.dtype, embedding, norm, head)
    if where is None or any(part.dtype is not embedding.dtype for part in parts):
        return None
    (vocabulary, dim), pointers = embedding.shape, (POINTER * len(parts))(*(ctypes.addressof(part.structure) for part in parts))
    shapes = len(parts), dim, vocabulary, False
    structure = _Model(*where, ctypes.cast(pointers, POINTER), *shapes, scale, eps, softcap or 0.0)
    structure.kept = pointers
    return structure


def token(library, model, tokens_B1, pos_B, work):
    """The logits (B, 1, V) of the token after tokens_B1 (int64), float32; None for a token outside the vocabulary.

    model: of `model_of`, whose parts know their states. work: scratch memory, 2 D numbers per row and the most that one of
    its parts needs.
    """
    rows = len(tokens_B1)
    logits_B1V = torch.empty((rows, 1, model.vocabulary), dtype=torch.float32)
    given = tokens_B1.data_ptr(), pos_B.data_ptr(), logits_B1V.data_ptr(), work.data_ptr()
    library.token(ctypes.addressof(model), *given, rows, torch.get_num_threads())
    return None if model.unknown else logits_B1V


def addresses(dtype, *tensors):
    """Addresses of the tensors, None for a tensor that is None; None if C cannot take one of them as `dtype`."""
    found = []
    for x in tensors:
        if x is None:
            found.append(None)
        elif x.dtype is dtype and x.is_cpu and x.is_contiguous():
            found.append(x.data_ptr())
        else:
            return None
    return found


def _around(kind, where, around):
    return KINDS[kind], around.residual, where[0], where[1], *around.eps


def scratch(numbers):
    """Memory for float32 numbers, whatever torch's default type is."""
    return torch.empty(numbers, dtype=torch.float32)


def library(x):
    """The library for x's type; None if C cannot take x, or if a gradient is wanted."""
    return None if torch.is_grad_enabled() else native.library("decode", (x,), SIGNATURES)
