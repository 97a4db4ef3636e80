"""Softmax attention over an interval of keys per query: a plain reference, and faster paths that equal it.

Shapes: B rows, T queries, S keys, H query heads, K key/value heads, G = H / K, C channels per head.

Query t of row b sees the keys whose index is in [low_BT[b, t], high_BT[b, t]]; every query sees at least one key.
The queries belong to the newest keys: query t is at key S - T + t, and S >= T. Further arguments describe the bounds:
reach: (before, after), None for no limit. No query sees further than this many keys from its own position.
whole: the bounds are exactly `reach`, cut off at the ends of the row. There is one document per row and no padding.
memo: `TokenLayout.memo`, with which layers share masks that follow from the bounds.
"""

from arch.kernels import paths
from arch.kernels.attention import tile
from arch.kernels.attention.banded import banded
from arch.kernels.attention.blocked import blocked
from arch.kernels.attention.fused import fused, needs_no_mask
from arch.kernels.attention.reference import reference
from arch.kernels.attention.ring import ring

__all__ = ["attend", "banded", "blocked", "chosen", "fused", "reference", "ring", "tile"]


def attend(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), whole=False, softcap=None, memo=None):
    """Attention by the path that `chosen` names; returns (B, T, H, C)."""
    operands, rest = (q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach), (softcap, memo)
    match chosen(q_BTHC, k_BSKC, reach, whole, softcap):
        case "fused":
            return fused(*operands, whole, memo)
        case "flex":
            from arch.kernels.attention.flex import flex

            return flex(*operands, *rest)
        case "banded":
            return banded(*operands, *rest)
    return blocked(*operands, whole, *rest)


def chosen(q_BTHC, k_BSKC, reach=(None, None), whole=False, softcap=None):
    """The fastest path that supports all arguments: `fused`, `flex`, `banded` or `blocked`.

    CUDA: `fused` (torch's fused attention) if neither softcap nor mask is needed. Otherwise `flex` (FlexAttention) if
    it is switched on and its kernels take the queries. Otherwise `banded` for a finite window of less than half the
    queries, `blocked` with a softcap, and `fused` with a mask for the rest. Other devices: `banded` for such a window,
    else `blocked`. On a CPU these are faster than `fused`, because torch's blocks skip fewer of the keys that causality
    hides (docs/notebook.md).
    """
    on_gpu = q_BTHC.device.type == "cuda"
    if on_gpu and softcap is None and needs_no_mask(q_BTHC, k_BSKC, reach, whole):
        return "fused"
    if paths.triton_asked_for(q_BTHC.device):
        from arch.kernels.attention.flex import takes

        if takes(q_BTHC):
            return "flex"
    if None not in reach and q_BTHC.shape[1] > 2 * (sum(reach) + 1):
        return "banded"
    return "fused" if on_gpu and softcap is None else "blocked"
