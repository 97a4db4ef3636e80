"""Attention within a window, with several blocks of queries at once: time and memory are linear in T.

A block of Q queries attends to the P + Q + A keys around it, where P and A are the window's sides rounded up to whole
blocks. The keys of neighbouring blocks overlap; they are views into one padded stream, not copies.

Shapes: N blocks. For others see `arch.kernels.attention` and `tile`; S is P + Q + A here.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from arch.kernels.attention.tile import (
    Workspace,
    as_streams,
    bounds_by_stream,
    factors,
    from_streams,
    multiplying,
    scores_at_once,
    unseen,
)


def banded(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach, softcap=None, memo=None):
    """The same as `reference`, for bounds within a finite `reach` (before, after) of the query."""
    kv_heads, earlier = k_BSKC.shape[2], k_BSKC.shape[1] - q_BTHC.shape[1]
    block = block_for(sum(reach) + 1)
    sides = tuple(-(-side // block) * block for side in reach)
    group = q_BTHC.shape[2] // kv_heads

    def make():
        return _bias(*bounds_by_stream(low_BT, high_BT, kv_heads), earlier, block, sides)

    bias_XNQS = make() if memo is None else memo(("band", kv_heads, earlier, reach), make)
    y_XRC = _Banded.apply(*as_streams(q_BTHC, k_BSKC, v_BSKC), bias_XNQS, group, block, sides, scale, softcap)
    return from_streams(y_XRC, len(q_BTHC), q_BTHC.shape[2])


def block_for(window):
    """Queries per block: the largest power of two up to a quarter of the window, but at least 8 and at most 128.

    A quarter leaves a fifth of the scores hidden. The limits keep matrix products fast.
    """
    return min(max(8, 1 << (window // 4).bit_length() >> 1), 128)


def _bias(low_XT, high_XT, earlier, block, sides):
    """(X, N, Q, S) float32: 0 if query q of block n sees the key, else -inf. Every query has a finite value."""
    tokens = low_XT.shape[1]
    blocks = -(-tokens // block)
    own_T = torch.arange(earlier, earlier + blocks * block, device=low_XT.device)
    spare_XT = own_T[tokens:].expand(len(low_XT), -1)  # padding queries of the last block see themselves
    low_XNQ, high_XNQ = (torch.cat([x, spare_XT], 1).unflatten(1, (blocks, block)) for x in (low_XT, high_XT))
    around_S = torch.arange(-sides[0], block + sides[1], device=low_XT.device)
    return unseen(low_XNQ, high_XNQ, (own_T[::block, None] + around_S)[:, None], torch.float32)


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_XRC, k_XSC, v_XSC, bias_XNQS, group, block, sides, scale, softcap):
        ctx.save_for_backward(q_XRC, k_XSC, v_XSC, bias_XNQS)
        ctx.options = group, block, sides, scale, softcap
        band = _Band(q_XRC, k_XSC, bias_XNQS, group, block, sides)
        q, k, v = factors(q_XRC, k_XSC, v_XSC)
        q_XNRC, k_XNSC, v_XNSC = q.map(band.queries), k.map(band.keys), v.map(band.keys)
        y_XNRC = torch.empty(q_XNRC.wide.shape, dtype=q_XRC.dtype, device=q_XRC.device)
        work, tiles = band.plan(q, rooms=1)
        with multiplying(q_XRC):
            for at, hide in tiles:
                q_NRC, k_NSC, v_NSC = (x.map(lambda x: x[at].flatten(0, 1)) for x in (q_XNRC, k_XNSC, v_XNSC))
                work.forward(q_NRC, k_NSC, v_NSC, scale, softcap, hide, out=y_XNRC[at].flatten(0, 1))
        return y_XNRC.flatten(1, 2)[:, : q_XRC.shape[1]]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_XRC):
        q_XRC, k_XSC, v_XSC, bias_XNQS = ctx.saved_tensors
        group, block, sides, scale, softcap = ctx.options
        band = _Band(q_XRC, k_XSC, bias_XNQS, group, block, sides)
        grad, q, k, v = factors(grad_XRC, q_XRC, k_XSC, v_XSC)
        grad_XNRC, q_XNRC, k_XNSC, v_XNSC = grad.map(band.queries), q.map(band.queries), k.map(band.keys), v.map(band.keys)
        dq_XNRC = torch.empty(q_XNRC.wide.shape, dtype=q_XRC.dtype, device=q_XRC.device)
        dk_XNQC, dv_XNQC = band.sums(), band.sums()
        work, tiles = band.plan(q, rooms=2 if softcap is None else 3)
        with multiplying(q_XRC):
            for at, hide in tiles:
                given = (x.map(lambda x: x[at].flatten(0, 1)) for x in (grad_XNRC, q_XNRC, k_XNSC, v_XNSC))
                dq_NRC, dk_NSC, dv_NSC = work.backward(*given, scale, softcap, hide)
                dq_XNRC[at] = dq_NRC.view(dq_XNRC[at].shape)
                band.add(dk_XNQC, at, dk_NSC)
                band.add(dv_XNQC, at, dv_NSC)
        dq_XRC = dq_XNRC.flatten(1, 2)[:, : q_XRC.shape[1]]
        return dq_XRC, band.unpadded(dk_XNQC), band.unpadded(dv_XNQC), *[None] * 6


class _Band:
    """Cut streams into blocks of queries and overlapping windows of keys."""

    def __init__(self, q_XRC, k_XSC, bias_XNQS, group, block, sides):
        self.like, self.bias_XNQS, self.group, self.block = k_XSC, bias_XNQS, group, block
        self.blocks, self.width = bias_XNQS.shape[1], bias_XNQS.shape[3]
        tokens, keys = q_XRC.shape[1] // group, k_XSC.shape[1]
        self.spare = self.blocks * block - tokens
        self.front, self.back = sides[0] - (keys - tokens), self.spare + sides[1]  # negative padding cuts off

    def queries(self, x_XRC):
        """x_XRC in blocks of queries, (X, N, Q G, C)."""
        return F.pad(x_XRC, (0, 0, 0, self.spare * self.group)).unflatten(1, (self.blocks, -1))

    def keys(self, x_XSC):
        """x_XSC as overlapping views, one per block of queries: (X, N, P + Q + A, C)."""
        return F.pad(x_XSC, (0, 0, self.front, self.back)).unfold(1, self.width, self.block).transpose(2, 3)

    def sums(self):
        """Zeros for the gradient of all padded keys, in blocks; at least float32, because windows are summed."""
        streams, keys, channels = self.like.shape
        blocks = (self.front + keys + self.back) // self.block
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        return torch.zeros(streams, blocks, self.block, channels, dtype=dtype, device=self.like.device)

    def add(self, sum_XNQC, at, x_NSC):
        """Add the gradients of the windows of the blocks `at` to the blocks of keys that they cover."""
        x, n = at
        x_XNSC = x_NSC.unflatten(0, (-1, n.stop - n.start))
        for shift, part_XNQC in enumerate(x_XNSC.split(self.block, 2)):
            sum_XNQC[x, n.start + shift : n.stop + shift] += part_XNQC

    def unpadded(self, sum_XNQC):
        return F.pad(sum_XNQC.flatten(1, 2), (0, 0, -self.front, -self.back)).to(self.like.dtype)

    def plan(self, factor, rooms):
        """(workspace, iterator over tiles). A tile is ((slice of streams, slice of their blocks), function that hides scores).

        A tile has blocks of one stream or, on a CPU, all blocks of the streams that fit into a quarter of it: where products are
        small, calls cost as much. The windows of several streams are copied, because their strides have nothing in common.
        """
        scores, streams = self.block * self.group * self.width, len(self.like)
        most = scores_at_once(self.like.device) // scores
        together = max(1, min(self.blocks, most))
        rows = min(streams, max(1, most // 4 // self.blocks)) if self.like.is_cpu else 1
        work = Workspace(self.like, factor, rows * together * scores, rooms)

        def tiles():
            for first in range(0, streams, rows):
                x = slice(first, min(first + rows, streams))
                bias_XNQS = self.bias_XNQS[x] if len(self.bias_XNQS) > 1 else self.bias_XNQS
                for start in range(0, self.blocks, together):
                    n = slice(start, min(start + together, self.blocks))

                    def hide(z_NRS):
                        z_XNQGS = z_NRS.view(x.stop - x.start, n.stop - n.start, -1, self.group, z_NRS.shape[-1])
                        z_XNQGS += bias_XNQS[:, n, :, None]

                    yield (x, n), hide

        return work, tiles()
