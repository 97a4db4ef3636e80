"""Attention in blocks of queries, each with the keys that it can see: no T x T tensor, memory linear in T.

Shapes: see `arch.kernels.attention` and `tile`.
"""

import torch
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

BLOCK = 64  # queries per block, so that a tile has at least 64 G T scores


def blocked(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), whole=False, softcap=None, memo=None):
    """The same as `reference`. Keys that no query of a block sees are skipped.

    All such keys are skipped if the rows are `whole`, or if the bounds are on a CPU, where reading them is cheap.
    Otherwise only the keys outside of `reach` are skipped.
    """
    kv_heads, keys = k_BSKC.shape[2], k_BSKC.shape[1]
    block = _block(q_BTHC)

    def make():
        low_XT, high_XT = bounds_by_stream(low_BT, high_BT, kv_heads)
        return low_XT, high_XT, _spans(low_XT, high_XT, keys, block, reach, whole)

    bounds = make() if memo is None else memo(("blocked", kv_heads, keys, reach, whole), make)
    y_XRC = _Blocked.apply(*as_streams(q_BTHC, k_BSKC, v_BSKC), *bounds, block, whole, scale, softcap)
    return from_streams(y_XRC, len(q_BTHC), q_BTHC.shape[2])


def _block(q_BTHC):
    """Queries per block. On the meta device, long rows get larger blocks.

    Counting the FLOPs of thousands of blocks would take minutes. Larger blocks raise the count by at most 1 %.
    """
    return max(BLOCK, q_BTHC.shape[1] // 128) if q_BTHC.device.type == "meta" else BLOCK


def _spans(low_XT, high_XT, keys, block, reach, whole):
    """(first, all_from, all_to, end) for each block of queries.

    Some query of the block may see the keys [first, end). Every query of the block sees those in [all_from, all_to).
    """
    tokens = low_XT.shape[1]
    if low_XT.device.type == "cpu" and not whole:
        cuts = [
            [part.min(), part.max(), other.min() + 1, other.max() + 1]
            for part, other in zip(low_XT.split(block, 1), high_XT.split(block, 1), strict=True)
        ]
        return [_ordered(*map(int, cut)) for cut in cuts]
    before, after = (keys if limit is None else limit for limit in reach)
    spans = []
    for start in range(keys - tokens, keys, block):
        last = min(start + block, keys) - 1
        first, end = max(0, start - before), min(keys, last + after + 1)
        all_from, all_to = max(0, last - before), min(keys, start + after + 1)
        spans.append(_ordered(first, all_from, all_to, end) if whole else (first, end, end, end))
    return spans


def _ordered(first, all_from, all_to, end):
    return (first, all_from, all_to, end) if all_from < all_to else (first, end, end, end)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_XRC, k_XSC, v_XSC, low_XT, high_XT, spans, block, whole, scale, softcap):
        ctx.save_for_backward(q_XRC, k_XSC, v_XSC, low_XT, high_XT)
        ctx.options = spans, block, whole, scale, softcap
        y_XRC = torch.empty_like(q_XRC, memory_format=torch.contiguous_format)
        q, k, v = factors(q_XRC, k_XSC, v_XSC)
        work, tiles = _plan(q_XRC, q, low_XT, high_XT, spans, block, whole, rooms=1)
        with multiplying(q_XRC):
            for x, r, s, hide in tiles:
                work.forward(q[x, r], k[x, s], v[x, s], scale, softcap, hide, out=y_XRC[x, r])
        return y_XRC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_XRC):
        q_XRC, k_XSC, v_XSC, low_XT, high_XT = ctx.saved_tensors
        spans, block, whole, scale, softcap = ctx.options
        dq_XRC = torch.empty_like(q_XRC, memory_format=torch.contiguous_format)
        wide = torch.promote_types(k_XSC.dtype, torch.float32)  # sums over blocks
        dk_XSC, dv_XSC = (torch.zeros(k_XSC.shape, dtype=wide, device=k_XSC.device) for _ in "kv")
        grad, q, k, v = factors(grad_XRC, q_XRC, k_XSC, v_XSC)
        work, tiles = _plan(q_XRC, q, low_XT, high_XT, spans, block, whole, rooms=2 if softcap is None else 3)
        with multiplying(q_XRC):
            for x, r, s, hide in tiles:
                dq_XRC[x, r], dk, dv = work.backward(grad[x, r], q[x, r], k[x, s], v[x, s], scale, softcap, hide)
                dk_XSC[x, s] += dk
                dv_XSC[x, s] += dv
        return dq_XRC, dk_XSC.to(k_XSC.dtype), dv_XSC.to(v_XSC.dtype), *[None] * 7


def _plan(q_XRC, factor, low_XT, high_XT, spans, block, whole, rooms):
    """(workspace, iterator over tiles). A tile is (streams, queries, keys: slices; function that hides scores)."""
    streams, tokens = len(q_XRC), low_XT.shape[1]
    group = q_XRC.shape[1] // tokens
    largest = min(block, tokens) * group * max(end - first for first, _, _, end in spans)
    together = max(1, min(streams, scores_at_once(q_XRC.device) // largest))
    work = Workspace(q_XRC, factor, together * largest, rooms)
    biases = {}

    def bias(x, n, left, right, dtype):
        """The bias of keys [left, right). In whole rows, blocks at the same distance from their keys share it."""
        t = slice(n * block, min((n + 1) * block, tokens))
        key = (t.stop - t.start, left - t.start, right - t.start)
        if not whole or key not in biases:
            bounds = [bound_XT[x if len(bound_XT) > 1 else slice(None), t] for bound_XT in (low_XT, high_XT)]
            biases[key] = unseen(*bounds, torch.arange(left, right, device=q_XRC.device), dtype)[:, :, None]
        return biases[key]

    def tiles():
        for n, (first, all_from, all_to, end) in enumerate(spans):
            for start in range(0, streams, together):
                x = slice(start, start + together)

                def hide(z_XRS):
                    z_XTGS = z_XRS.unflatten(1, (-1, group))
                    for left, right in ((first, all_from), (all_to, end)):
                        if left < right:
                            z_XTGS[..., left - first : right - first] += bias(x, n, left, right, z_XRS.dtype)

                yield x, slice(n * block * group, (n + 1) * block * group), slice(first, end), hide

    return work, tiles()
