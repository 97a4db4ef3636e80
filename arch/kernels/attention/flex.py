"""Attention through torch's FlexAttention. Memory is linear in T.

FlexAttention compiles softcap and bounds into one Triton kernel for each of forward and backward, and skips blocks of
keys that no query of a block sees.

It runs only if `ARCHBENCH_TRITON=1`. So far its arithmetic has passed its tests on the CPU, but the compiled kernels
have not passed on a device (`tests/arch/test_flex.py` tests both). It becomes the default when a record of it passing
on a device is committed.

Shapes: see `arch.kernels.attention`; X rows of bounds, 1 if all rows have the same; N blocks of queries, M of keys.
"""

import functools

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # queries and keys per block, FlexAttention's default


def flex(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), softcap=None, memo=None):
    """The same as `reference`. reach: only part of the memo's key.

    On CUDA it is compiled. On other devices, FlexAttention's unfused form runs, which holds all scores; that is for
    tests. If compilation fails, torch's error is raised; there is no silent fallback to the unfused form. FlexAttention
    gets neither scale nor softcap as a Python number: torch would turn a second value into a symbolic variable, which
    the kernels cannot take.
    """

    def make():
        return block_mask(low_BT, high_BT, k_BSKC.shape[1])

    y_BHTC = (_compiled() if q_BTHC.device.type == "cuda" else flex_attention)(
        *(x.transpose(1, 2) for x in (q_BTHC * scale, k_BSKC, v_BSKC)),
        score_mod=_capped(softcap, q_BTHC.device),
        block_mask=make() if memo is None else memo(("flex", k_BSKC.shape[1], reach), make),
        scale=1.0,
        enable_gqa=q_BTHC.shape[2] != k_BSKC.shape[2],
    )
    return y_BHTC.transpose(1, 2)


def takes(q_BTHC):
    """Whether FlexAttention's kernels can take these queries: at least 16 channels per head, no float64."""
    return q_BTHC.shape[3] >= 16 and q_BTHC.dtype in (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def _compiled():
    return torch.compile(flex_attention, fullgraph=True)


def _capped(softcap, device):
    """FlexAttention's `score_mod`, which caps one scaled score; None without a softcap."""
    if softcap is None:
        return None
    cap = torch.full((), softcap, device=device)
    return lambda score, b, h, t, s: cap * torch.tanh(score / cap)


def block_mask(low_BT, high_BT, keys):
    """The BlockMask of these bounds, from the extremes of each block's bounds, without a T x S tensor."""
    tokens, device = low_BT.shape[1], low_BT.device
    alike = low_BT.stride(0) == 0 == high_BT.stride(0)
    low_BT, high_BT = low_BT.int(), high_BT.int()
    low_XNQ, high_XNQ = (_blocks(bound_BT[:1] if alike else bound_BT) for bound_BT in (low_BT, high_BT))
    m_M = torch.arange(-(-keys // BLOCK), device=device)

    def between(first_XN, last_XN):
        return (m_M * BLOCK >= first_XN[..., None]) & ((m_M + 1) * BLOCK - 1 <= last_XN[..., None])

    some_XNM = between(low_XNQ.amin(-1) - BLOCK + 1, high_XNQ.amax(-1) + BLOCK - 1)
    all_XNM = between(low_XNQ.amax(-1), high_XNQ.amin(-1))
    if tokens % BLOCK:
        all_XNM[:, -1] = False  # an incomplete block of queries always needs the mask
    return BlockMask.from_kv_blocks(
        *_listed(some_XNM & ~all_XNM),
        *_listed(all_XNM),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, t, s: (low_BT[b, t] <= s) & (s <= high_BT[b, t]),
        seq_lengths=(tokens, keys),
    )


def _blocks(bound_XT):
    """Bounds (X, T) in blocks, (X, N, Q). The last block is padded with its last query."""
    spare = -bound_XT.shape[1] % BLOCK
    return torch.cat([bound_XT, bound_XT[:, -1:].expand(-1, spare)], 1).unflatten(1, (-1, BLOCK))


def _listed(chosen_XNM):
    """(number of chosen blocks of keys (X, 1, N), indices of blocks, the chosen first (X, 1, N, M)), for all heads."""
    numbers_XNM = chosen_XNM.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_XNM.sum(-1, dtype=torch.int32)[:, None], numbers_XNM.int()[:, None]
