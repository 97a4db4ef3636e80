"""Attention with any mask, for keys of two stacks. Shapes: see `arch.kernels.attention`; here S may be smaller than T.

The other paths need the keys that a query sees to be an interval. What a decoder sees of its own tokens and of the encoder's is
two of them.
"""

import torch
import torch.nn.functional as F


def masked_reference(q_BTHC, k_BSKC, v_BSKC, seen_BTS, scale, softcap=None):
    """softmax(cap(scale q k^T)) v over the keys that a query sees, by its definition; softmax in float32 at least.

    seen_BTS: bool. A query that sees no key gives zeros, with zero gradients.
    """
    q_BTKGC = q_BTHC.unflatten(2, (k_BSKC.shape[2], -1))
    z_BKGTS = torch.einsum("btkgc,bskc->bkgts", q_BTKGC * scale, k_BSKC)
    z_BKGTS = z_BKGTS.to(torch.promote_types(z_BKGTS.dtype, torch.float32))
    if softcap is not None:
        z_BKGTS = softcap * torch.tanh(z_BKGTS / softcap)
    seen_B11TS = seen_BTS[:, None, None]
    z_BKGTS = z_BKGTS.masked_fill(~seen_B11TS, torch.finfo(z_BKGTS.dtype).min)
    p_BKGTS = z_BKGTS.softmax(dim=-1).masked_fill(~seen_B11TS, 0.0).to(v_BSKC.dtype)
    return torch.einsum("bkgts,bskc->btkgc", p_BKGTS, v_BSKC).flatten(2, 3)


def masked(q_BTHC, k_BSKC, v_BSKC, seen_BTS, scale, softcap=None):
    """The same as `masked_reference`; without a softcap by torch's fused operation."""
    if softcap is not None:
        return masked_reference(q_BTHC, k_BSKC, v_BSKC, seen_BTS, scale, softcap)
    blind_BT = ~seen_BTS.any(-1)
    y_BHTC = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q_BTHC, k_BSKC, v_BSKC)),
        attn_mask=(seen_BTS | blind_BT[..., None])[:, None],  # torch gives NaN where a query sees nothing
        scale=scale,
        enable_gqa=q_BTHC.shape[2] != k_BSKC.shape[2],
    )
    return y_BHTC.transpose(1, 2).masked_fill(blind_BT[..., None, None], 0.0)
