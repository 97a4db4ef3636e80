"""Attention by its definition. Shapes and arguments: see `arch.kernels.attention`."""

import torch


def reference(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, softcap=None):
    """softmax(cap(scale * q k^T)) v with cap(z) = softcap * tanh(z / softcap), before the mask; softmax in float32."""
    q_BTKGC = q_BTHC.unflatten(2, (k_BSKC.shape[2], -1))
    z_BKGTS = torch.einsum("btkgc,bskc->bkgts", q_BTKGC * scale, k_BSKC).float()
    if softcap is not None:
        z_BKGTS = softcap * torch.tanh(z_BKGTS / softcap)
    seen_BTS = visible(low_BT, high_BT, torch.arange(k_BSKC.shape[1], device=low_BT.device))
    z_BKGTS = z_BKGTS.masked_fill(~seen_BTS[:, None, None], float("-inf"))
    p_BKGTS = z_BKGTS.softmax(dim=-1).to(v_BSKC.dtype)
    return torch.einsum("bkgts,bskc->btkgc", p_BKGTS, v_BSKC).flatten(2, 3)


def visible(low_BT, high_BT, index_S):
    """(B, T, S) bool: whether a key with this index is in the query's interval."""
    return (index_S >= low_BT[..., None]) & (index_S <= high_BT[..., None])
