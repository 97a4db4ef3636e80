"""The linear recurrence on CUDA, in Triton: it scans tiles of tokens in registers, with a float32 carry between them.

It runs only if `ARCHBENCH_TRITON=1`. So far it has passed its tests only in Triton's interpreter (`make test-triton`),
not on a device; it becomes the default when a record of it passing on a device is committed. Tile sizes are untuned.
Needs the extra: `pip install -e '.[triton]'`.

Shapes: B rows, T tokens, R channels. Operands are float32 or bfloat16; arithmetic is float32; results are cast once.
One program handles one row and one tile of channels. It walks over the tokens and reads and writes each value once.
"""

import torch
import triton
import triton.language as tl

TILE_T, TILE_R = 64, 32


@triton.jit
def _then(a_first, b_first, a_second, b_second):
    """Compose two steps h -> a h + b into one."""
    return a_first * a_second, a_second * b_first + b_second


@triton.jit
def _forward(a, b, h0, h, tokens, width, TILE_T: tl.constexpr, TILE_R: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)
    step = tl.arange(0, TILE_T)
    carry = tl.load(h0 + row * width + r, r < width, 0.0).to(tl.float32)
    for first in range(0, tokens, TILE_T):
        t = first + step
        at = (row * tokens + t)[:, None] * width + r[None]
        inside = (t < tokens)[:, None] & (r < width)[None]
        a_tile = tl.load(a + at, inside, 0.0).to(tl.float32)
        b_tile = tl.load(b + at, inside, 0.0).to(tl.float32)
        reached, own = tl.associative_scan((a_tile, b_tile), 0, _then)
        h_tile = own + reached * carry[None]
        tl.store(h + at, h_tile.to(h.dtype.element_ty), inside)
        carry = tl.sum(tl.where((step == TILE_T - 1)[:, None], h_tile, 0.0), 0)


@triton.jit
def _backward(g, a, h0, h, da, db, dh0, tokens, width, TILE_T: tl.constexpr, TILE_R: tl.constexpr):
    """s_t = g_t + a_{t+1} s_{t+1}, from the last tile to the first; da_t = s_t h_{t-1}, db = s, dh0 = a_0 s_0."""
    row = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)
    step = tl.arange(0, TILE_T)
    start = tl.load(h0 + row * width + r, r < width, 0.0).to(tl.float32)
    carry = tl.zeros([TILE_R], tl.float32)
    for back in range(0, tokens, TILE_T):
        t = (tokens - 1) // TILE_T * TILE_T - back + step
        at = (row * tokens + t)[:, None] * width + r[None]
        inside = (t < tokens)[:, None] & (r < width)[None]
        g_tile = tl.load(g + at, inside, 0.0).to(tl.float32)
        a_next = tl.load(a + at + width, inside & (t < tokens - 1)[:, None], 0.0).to(tl.float32)
        before = tl.load(h + at - width, inside & (t > 0)[:, None], 0.0).to(tl.float32)
        before = tl.where((t == 0)[:, None], start[None], before)
        reached, own = tl.associative_scan((a_next, g_tile), 0, _then, reverse=True)
        s = own + reached * carry[None]
        tl.store(da + at, (s * before).to(da.dtype.element_ty), inside)
        tl.store(db + at, s.to(db.dtype.element_ty), inside)
        carry = tl.sum(tl.where((step == 0)[:, None], s, 0.0), 0)
    first = tl.load(a + row * tokens * width + r, r < width, 0.0).to(tl.float32)
    tl.store(dh0 + row * width + r, (first * carry).to(dh0.dtype.element_ty), r < width)


def forward(a_BTR, b_BTR, h0_BR):
    """All states h_BTR, in the type of a."""
    a_BTR, b_BTR, h0_BR = (x.contiguous() for x in (a_BTR, b_BTR, h0_BR))
    rows, tokens, width = a_BTR.shape
    h_BTR = torch.empty_like(a_BTR)
    _forward[(rows, triton.cdiv(width, TILE_R))](a_BTR, b_BTR, h0_BR, h_BTR, tokens, width, TILE_T, TILE_R)
    return h_BTR


def backward(g_BTR, a_BTR, h0_BR, h_BTR):
    """The gradients of a, b and h0, in their types."""
    inputs = [x.contiguous() for x in (g_BTR, a_BTR, h0_BR, h_BTR)]
    rows, tokens, width = a_BTR.shape
    gradients = torch.empty_like(inputs[1]), torch.empty_like(inputs[1]), torch.empty_like(inputs[2])
    _backward[(rows, triton.cdiv(width, TILE_R))](*inputs, *gradients, tokens, width, TILE_T, TILE_R)
    return gradients
