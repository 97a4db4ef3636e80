"""Softmax attention over an interval of keys a query: a plain reference, and two faster paths with its signature.

Shapes: B rows, T queries, S keys, H query heads, K key/value heads, G = H / K, C channels, W window.
A query t of row b sees the keys whose index lies in [low_BT[b, t], high_BT[b, t]]; every query sees at least one.
"""

import torch
import torch.nn.functional as F
from einops import rearrange


def reference(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, softcap=None, index_S=None, memo=None):
    """softmax(cap(scale * q k^T)) v with cap(z) = softcap * tanh(z / softcap), before the mask; softmax in float32.

    index_S: the index of each key in the stream, by default 0 ... S-1; -1 for a slot that is empty.
    memo: `TokenLayout.memo`, to share a mask between layers. Returns (B, T, H, C).
    """
    q_BTKGC = q_BTHC.unflatten(2, (k_BSKC.shape[2], -1))
    z_BKGTS = torch.einsum("btkgc,bskc->bkgts", q_BTKGC * scale, k_BSKC).float()
    if softcap is not None:
        z_BKGTS = softcap * torch.tanh(z_BKGTS / softcap)
    mask_BTS = _mask(low_BT, high_BT, k_BSKC.shape[1], index_S, memo)
    z_BKGTS = z_BKGTS.masked_fill(~mask_BTS[:, None, None], float("-inf"))
    p_BKGTS = z_BKGTS.softmax(dim=-1).to(v_BSKC.dtype)
    return torch.einsum("bkgts,bskc->btkgc", p_BKGTS, v_BSKC).flatten(2, 3)


def fused(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, index_S=None, memo=None):
    """The same through torch's fused attention, which has no softcap. Memory is T x S for the mask alone."""
    mask_BTS = _mask(low_BT, high_BT, k_BSKC.shape[1], index_S, memo)
    grouped = q_BTHC.shape[2] != k_BSKC.shape[2]
    q_BHTC, k_BKSC, v_BKSC = (x.transpose(1, 2) for x in (q_BTHC, k_BSKC, v_BSKC))
    y_BHTC = F.scaled_dot_product_attention(
        q_BHTC, k_BKSC, v_BKSC, attn_mask=mask_BTS[:, None], scale=scale, enable_gqa=grouped
    )
    return y_BHTC.transpose(1, 2)


def banded(q_BTHC, k_BTKC, v_BTKC, low_BT, high_BT, scale, window, softcap=None, memo=None):
    """The same for a causal window: each block of W queries meets its own block of keys and the one before.

    Needs low_BT >= t - (W - 1) and high_BT = t. Time and memory are linear in T.
    """
    rows, tokens = q_BTHC.shape[:2]
    kv_heads, blocks = k_BTKC.shape[2], -(-tokens // window)
    spare = blocks * window - tokens
    q_BTHC, k_BTKC, v_BTKC = (F.pad(x, (0, 0, 0, 0, 0, spare)) for x in (q_BTHC, k_BTKC, v_BTKC))

    def with_previous(x_BTKC):
        x_BNWKC = rearrange(x_BTKC, "b (n w) k c -> b n w k c", n=blocks)
        before_BNWKC = F.pad(x_BNWKC, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        return rearrange(torch.cat([before_BNWKC, x_BNWKC], dim=2), "b n s k c -> (b n k) s c")

    q_XRC = rearrange(q_BTHC, "b (n w) (k g) c -> (b n k) (g w) c", n=blocks, k=kv_heads)
    k_XSC, v_XSC = with_previous(k_BTKC), with_previous(v_BTKC)
    z_XRS = torch.bmm(q_XRC * scale, k_XSC.transpose(1, 2)).float()
    if softcap is not None:
        z_XRS = softcap * torch.tanh(z_XRS / softcap)
    make = lambda: _band_bias(low_BT, window, blocks, spare)  # noqa: E731
    bias_BNWS = make() if memo is None else memo(("band", window), make)
    z_BNKGWS = rearrange(z_XRS, "(b n k) (g w) s -> b n k g w s", b=rows, k=kv_heads, w=window)
    p_BNKGWS = (z_BNKGWS + bias_BNWS[:, :, None, None]).softmax(dim=-1).to(v_BTKC.dtype)
    y_XRC = torch.bmm(rearrange(p_BNKGWS, "b n k g w s -> (b n k) (g w) s"), v_XSC)
    return rearrange(y_XRC, "(b n k) (g w) c -> b (n w) (k g) c", b=rows, k=kv_heads, w=window)[:, :tokens]


def attend(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, window=None, softcap=None, index_S=None, memo=None):
    """Attention by the leanest path that can honour every argument. `window` W promises low_BT >= t - (W - 1)."""
    tokens, keys = q_BTHC.shape[1], k_BSKC.shape[1]
    if window is not None and index_S is None and tokens == keys > 2 * window:
        return banded(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, window, softcap, memo)
    if softcap is None:
        return fused(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, index_S, memo)
    return reference(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, softcap, index_S, memo)


def _mask(low_BT, high_BT, keys, index_S, memo):
    def make():
        index = torch.arange(keys, device=low_BT.device) if index_S is None else index_S
        return (index >= low_BT[..., None]) & (index <= high_BT[..., None])

    if memo is None or index_S is not None:
        return make()
    return memo(("mask", id(low_BT), id(high_BT), keys), make)


def _band_bias(low_BT, window, blocks, spare):
    """(B, N, W, 2W): 0 where query w of block n sees key s of blocks n-1 and n, -inf elsewhere; finite in every row."""
    rows, tokens = low_BT.shape
    index_T = torch.arange(blocks * window, device=low_BT.device)
    low_BT = torch.cat([low_BT, index_T[tokens:].expand(rows, spare)], dim=1)
    low_BNW1 = low_BT.view(rows, blocks, window, 1)
    index_NW1 = index_T.view(blocks, window, 1)
    key_N1S = torch.arange(-window, window, device=low_BT.device) + index_T[::window, None, None]
    seen_BNWS = (key_N1S >= low_BNW1) & (key_N1S <= index_NW1)
    return torch.where(seen_BNWS, 0.0, float("-inf"))
