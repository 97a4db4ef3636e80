"""Attention through torch's FlexAttention, which makes of softcap and bounds one Triton kernel a pass, and passes over
blocks of keys that no query of a block sees. Memory is linear in T.

Only where `ARCHBENCH_TRITON=1` asks for it: its arithmetic has passed on the CPU, what torch compiles it into never on a
device so far (`tests/arch/test_flex.py` does both); it becomes the default once a record of it passing on one is
committed.

Shapes: see `arch.kernels.attention`; X rows of bounds, 1 where all rows have the same; N blocks of queries, M of keys.
"""

import functools

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # queries and keys of a block, FlexAttention's own size


def flex(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), softcap=None, memo=None):
    """The reference. `reach` only tells bounds apart in the memo.

    Compiled on CUDA; elsewhere FlexAttention's unfused form, which holds all scores: for tests. What cannot be compiled
    raises what torch raises; it is never computed unfused in silence. Neither scale nor softcap is a plain number to
    FlexAttention: of a second value torch would make a variable, which its kernels cannot take.
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
    """Whether FlexAttention's kernels can take these queries: at least 16 channels a head, no float64."""
    return q_BTHC.shape[3] >= 16 and q_BTHC.dtype in (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def _compiled():
    return torch.compile(flex_attention, fullgraph=True)


def _capped(softcap, device):
    """FlexAttention's `score_mod`: what becomes of one scaled score; None where nothing does."""
    if softcap is None:
        return None
    cap = torch.full((), softcap, device=device)
    return lambda score, b, h, t, s: cap * torch.tanh(score / cap)


def block_mask(low_BT, high_BT, keys):
    """The BlockMask of these bounds, by the extremes of each block's bounds: no T x S tensor is made."""
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
        all_XNM[:, -1] = False  # a block of fewer queries is never one that needs no mask
    return BlockMask.from_kv_blocks(
        *_listed(some_XNM & ~all_XNM),
        *_listed(all_XNM),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, t, s: (low_BT[b, t] <= s) & (s <= high_BT[b, t]),
        seq_lengths=(tokens, keys),
    )


def _blocks(bound_XT):
    """(X, N, Q), the last block filled up with its last query."""
    spare = -bound_XT.shape[1] % BLOCK
    return torch.cat([bound_XT, bound_XT[:, -1:].expand(-1, spare)], 1).unflatten(1, (-1, BLOCK))


def _listed(chosen_XNM):
    """How many blocks of keys are chosen (X, 1, N), and their numbers first, in order (X, 1, N, M); for every head."""
    numbers_XNM = chosen_XNM.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_XNM.sum(-1, dtype=torch.int32)[:, None], numbers_XNM.int()[:, None]
