"""Attention with any mask, for keys of two stacks. Shapes: see `arch.kernels.attention`; here S may be smaller than T.

The other paths need the keys that a query sees to be an interval. What a decoder sees of its own tokens and of the encoder's is
two of them.
"""

import torch
import torch.nn.functional as F

ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _forward_flops(q_shape, k_shape, v_shape, *args, out_shape=None, **options):
    """q k^T and p v over all pairs, seen or not."""
    rows, heads, queries, channels = q_shape
    return 4 * rows * heads * queries * k_shape[2] * channels


def _backward_flops(grad_shape, q_shape, k_shape, v_shape, *args, out_shape=None, **options):
    """The scores again, and a product for each gradient: of p, v, q and k."""
    return 5 * _forward_flops(q_shape, k_shape, v_shape) // 2


# What `torch.utils.flop_counter` does not know of the operation that torch takes on a CPU.
FLOPS = {ON_CPU: _forward_flops, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops}


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
    q_BHTC, k_BKSC, v_BKSC = (x.transpose(1, 2) for x in (q_BTHC, k_BSKC, v_BSKC))
    mask_B1TS = (seen_BTS | blind_BT[..., None])[:, None]  # torch gives NaN where a query sees nothing
    if q_BTHC.device.type == "meta":  # torch would take another path than on a CPU, one that keeps all scores
        y_BHTC, _ = ON_CPU(q_BHTC, k_BKSC, v_BKSC, 0.0, False, attn_mask=mask_B1TS.to(q_BHTC.dtype), scale=scale)
    else:
        grouped = q_BTHC.shape[2] != k_BSKC.shape[2]
        y_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, mask_B1TS, scale=scale, enable_gqa=grouped)
    return y_BHTC.transpose(1, 2).masked_fill(blind_BT[..., None, None], 0.0)
