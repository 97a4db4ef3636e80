"""Attention by torch's fused operation, which has no softcap. Shapes: see `arch.kernels.attention`."""

import torch
import torch.nn.functional as F

from arch.kernels.attention.reference import visible


def needs_no_mask(q_BTHC, k_BSKC, reach, whole):
    """Whether each query sees all keys, or all up to its own position, which torch supports without a mask."""
    return whole and (reach == (None, None) or (reach == (None, 0) and q_BTHC.shape[1] == k_BSKC.shape[1]))


def fused(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), whole=False, memo=None):
    """The same as `reference` without a softcap.

    No mask is made if `needs_no_mask`. Otherwise a T x S bias in the queries' type is added: torch would convert a
    boolean mask in every layer.
    """
    tokens, keys = q_BTHC.shape[1], k_BSKC.shape[1]
    bias_B1TS, maskless = None, needs_no_mask(q_BTHC, k_BSKC, reach, whole)

    def make():
        seen_BTS = visible(low_BT, high_BT, torch.arange(keys, device=low_BT.device))
        return torch.zeros_like(seen_BTS, dtype=q_BTHC.dtype).masked_fill_(~seen_BTS, float("-inf"))[:, None]

    if not maskless:
        bias_B1TS = make() if memo is None else memo(("bias", reach, tokens, keys, q_BTHC.dtype), make)
    y_BHTC = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q_BTHC, k_BSKC, v_BSKC)),
        attn_mask=bias_B1TS,
        is_causal=maskless and reach == (None, 0),
        scale=scale,
        enable_gqa=q_BTHC.shape[2] != k_BSKC.shape[2],
    )
    return y_BHTC.transpose(1, 2)
