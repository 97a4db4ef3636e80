"""One tile of attention, forward and backward: some queries with all the keys that any of them sees.

A tile holds complete rows of scores, so its softmax is exact and independent of other tiles. The backward pass
recomputes the scores from q and k, so scores are never stored. Scores and softmax are float32 (float64 for float64).
Products are torch's own calls: `factors` gives them what `arch.kernels.products` says, once for all tiles.

Shapes: X streams (a stream is one row's tokens with one key/value head); R = T G queries of the G heads that share a
key/value head, token by token; S keys; C channels per head.
"""

from contextlib import contextmanager, nullcontext

import torch

from arch.kernels import products
from arch.kernels import softcap as capped

# Most scores in a tile. On a CPU they should fit into the cache. On a GPU a tile should occupy the whole device. On the
# meta device, which computes nothing, there is practically no limit.
SCORES = {"cpu": 2**19, "cuda": 2**26, "meta": 2**48}


def scores_at_once(device):
    """The most scores that a tile may have on this kind of device."""
    return SCORES.get(device.type, SCORES["cuda"])


def as_streams(q_BTHC, k_BSKC, v_BSKC):
    """(q_XRC, k_XSC, v_XSC) with R = T G. With one key/value head, nothing is copied."""
    q_BTKGC = q_BTHC.unflatten(2, (k_BSKC.shape[2], -1))
    q_XRC = q_BTKGC.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return q_XRC, *(x.transpose(1, 2).flatten(0, 1) for x in (k_BSKC, v_BSKC))


def from_streams(y_XRC, rows, heads):
    """The inverse of `as_streams` for y_XRC: (B, T, H, C)."""
    y_BKRC = y_XRC.unflatten(0, (rows, -1))
    return y_BKRC.unflatten(2, (-1, heads // y_BKRC.shape[1])).transpose(1, 2).flatten(2, 3)


class Factor:
    """A factor of a tile's products: `wide` beside float32 scores, `narrow` beside probabilities and gradients of scores.

    Both are one tensor, except where this CPU multiplies bfloat16: then `wide` has the same numbers in float32, because a
    product has the type of its factors and scores are not rounded.
    """

    __slots__ = ("narrow", "wide")

    def __init__(self, wide, narrow):
        self.wide, self.narrow = wide, narrow

    def __getitem__(self, at):
        return self.map(lambda x: x[at])

    def map(self, change):
        """The factor after a change of its shape."""
        wide = change(self.wide)
        return Factor(wide, wide if self.narrow is self.wide else change(self.narrow))


def factors(*tensors):
    """[a Factor of each], cast here once, and not in each tile that it is in.

    On a CPU, bfloat16 is multiplied in bfloat16 if there are units for it, else in float32. Then the factors that a tile
    computes are rounded to bfloat16 too, so the numbers are those of units. Other tensors are left as they are.
    """
    like = tensors[0]
    if not rounds(like):
        return [Factor(x, x) for x in tensors]
    narrow = [products.cast(x) for x in tensors]
    wide = [x.float() for x in narrow]
    by_unit = like.dtype is torch.bfloat16 and products.unit() != ""
    return [Factor(*pair) for pair in zip(wide, narrow if by_unit else wide, strict=True)]


def rounds(like):
    """Whether what a tile computes and multiplies is rounded to bfloat16 beside a factor such as this tensor, by us."""
    return like.is_cpu and (like.dtype is torch.bfloat16 or products.imitates(like))


@contextmanager
def multiplying(like):
    """Products of tiles within: with the types of their factors, whatever autocast says, and by units if there are any."""
    device, by_unit = like.device.type, like.is_cpu and like.dtype is torch.bfloat16 and products.unit()
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    as_given = torch.autocast(device, enabled=False) if autocast else nullcontext()
    with as_given, products.rounded() if by_unit else nullcontext():
        yield


class Workspace:
    """Buffers for tiles of scores, allocated once. A buffer is called a room.

    like: what attention was given, of which `factor` is a Factor.
    """

    def __init__(self, like, factor, scores, tiles):
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.rooms = [torch.empty(scores, dtype=dtype, device=like.device) for _ in range(tiles)]
        self.rounds, self.dtype = rounds(like), factor.narrow.dtype
        in_bfloat16 = self.rounds and self.dtype is torch.bfloat16
        self.narrow = torch.empty(scores, dtype=self.dtype) if in_bfloat16 else None
        self.compiled = capped.compiled(*self.rooms, rounding=self.rounds)

    def product(self, room, a_XRC, b_XCS, factor):
        """factor * a b (X, R, S), written into the room with this index."""
        shape = *a_XRC.shape[:2], b_XCS.shape[2]
        z_XRS = self.rooms[room][: shape[0] * shape[1] * shape[2]].view(shape)
        if a_XRC.dtype == z_XRS.dtype:
            return torch.baddbmm(z_XRS, a_XRC, b_XCS, beta=0, alpha=factor, out=z_XRS)
        return z_XRS.copy_(torch.bmm(a_XRC, b_XCS)).mul_(factor)

    def as_factor(self, x_XRS):
        """x, which a room has, in the type in which it is multiplied."""
        if self.dtype is x_XRS.dtype:
            return x_XRS.copy_(x_XRS.bfloat16()) if self.rounds else x_XRS
        return x_XRS.to(self.dtype) if self.narrow is None else self._beside(x_XRS).copy_(x_XRS)

    def _beside(self, x_XRS):
        return None if self.narrow is None else self.narrow[: x_XRS.numel()].view(x_XRS.shape)

    def probabilities(self, q_XRC, k_XSC, scale, softcap, hide):
        """(p_XRS in room 0, p_XRS as a factor, s_XRS or None).

        hide: adds -inf, in place, to scores of keys that a query does not see. cap tanh(z / cap) is 2 cap s - cap with s =
        sigmoid(2 z / cap). The softmax cancels the constant, and on a CPU a sigmoid takes a seventh of the time of a tanh. s is
        kept in room 1, if there is one, for its derivative. On the C path for softcap and softmax, s is the tanh itself.
        """
        if self.compiled is not None and (softcap is not None or self.rounds):
            z_XRS = self.product(0, q_XRC.wide, k_XSC.wide.transpose(1, 2), scale / (softcap or 1))
            hide(z_XRS)
            kept = softcap is not None and len(self.rooms) > 1
            t_XRS = self.rooms[1][: z_XRS.numel()].view(z_XRS.shape) if kept else None
            narrow_XRS = self._beside(z_XRS)
            capped.softmax_(self.compiled, z_XRS, t_XRS, softcap, narrow_XRS)
            return z_XRS, z_XRS if narrow_XRS is None else narrow_XRS, t_XRS
        if softcap is None:
            z_XRS, s_XRS = self.product(0, q_XRC.wide, k_XSC.wide.transpose(1, 2), scale), None
        else:
            s_XRS = self.product(len(self.rooms) > 1, q_XRC.wide, k_XSC.wide.transpose(1, 2), 2 * scale / softcap).sigmoid_()
            z_XRS = torch.mul(s_XRS, 2 * softcap, out=self.rooms[0][: s_XRS.numel()].view(s_XRS.shape))
        hide(z_XRS)
        torch.softmax(z_XRS, -1, out=z_XRS)
        return z_XRS, self.as_factor(z_XRS), s_XRS

    def forward(self, q_XRC, k_XSC, v_XSC, scale, softcap, hide, out):
        """softmax(cap(scale q k^T)) v, written into `out` (X, R, C)."""
        _, p_XRS, _ = self.probabilities(q_XRC, k_XSC, scale, softcap, hide)
        if out.dtype is p_XRS.dtype and out.is_contiguous():
            torch.bmm(p_XRS, v_XSC.narrow, out=out)
        else:
            out.copy_(torch.bmm(p_XRS, v_XSC.narrow))

    def backward(self, grad_XRC, q_XRC, k_XSC, v_XSC, scale, softcap, hide):
        """Gradients of q (X, R, C), and of k and v (X, S, C). Needs two rooms, or three with a softcap."""
        p_XRS, factor_XRS, s_XRS = self.probabilities(q_XRC, k_XSC, scale, softcap, hide)
        dv_XSC = torch.bmm(factor_XRS.transpose(1, 2), grad_XRC.narrow)
        d_XRS = self.product(-1, grad_XRC.wide, v_XSC.wide.transpose(1, 2), 1)
        if self.compiled is not None and (softcap is not None or self.rounds):
            narrow_XRS = self._beside(d_XRS)
            capped.softmax_backward_(self.compiled, d_XRS, p_XRS, s_XRS, narrow_XRS)
            d_XRS = d_XRS if narrow_XRS is None else narrow_XRS
        else:
            torch.ops.aten._softmax_backward_data.out(d_XRS, p_XRS, -1, d_XRS.dtype, grad_input=d_XRS)
            if softcap is not None:
                torch.ops.aten.sigmoid_backward.grad_input(d_XRS, s_XRS, grad_input=d_XRS)
                scale = 4 * scale  # dz/ds ds/d(qk) = 2 cap * s (1 - s) * 2 scale / cap
            d_XRS = self.as_factor(d_XRS)
        return _scaled(d_XRS, k_XSC.narrow, scale), _scaled(d_XRS.transpose(1, 2), q_XRC.narrow, scale), dv_XSC


def _scaled(a, b, factor):
    if factor == 1:
        return torch.bmm(a, b)
    room = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return torch.baddbmm(room, a, b, beta=0, alpha=factor, out=room)


def unseen(low_XT, high_XT, index_S, dtype):
    """(X, T, S): 0 for a key in the query's interval, -inf for any other key."""
    seen_XTS = (index_S >= low_XT[..., None]) & (index_S <= high_XT[..., None])
    return torch.where(seen_XTS, 0.0, torch.tensor(float("-inf"), dtype=dtype, device=seen_XTS.device))


def bounds_by_stream(low_BT, high_BT, kv_heads):
    """The bounds of each stream, or of one stream if all rows have the same: one row, or expanded tensors."""
    if low_BT.stride(0) == 0 == high_BT.stride(0) or len(low_BT) == 1:
        return low_BT[:1], high_BT[:1]
    return low_BT.repeat_interleave(kv_heads, 0), high_BT.repeat_interleave(kv_heads, 0)
