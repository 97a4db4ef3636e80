"""Softmax attention over an interval of keys a query: a plain reference, and leaner paths that equal it.

Shapes: B rows, T queries, S keys, H query heads, K key/value heads, G = H / K, C channels a head.

A query t of row b sees the keys whose index lies in [low_BT[b, t], high_BT[b, t]]; every query sees at least one.
Queries are the newest of the keys: query t stands at key S - T + t, and S >= T. Two promises may come with the bounds:
`reach` (before, after), None for no limit, says that no query sees further than so many keys from where it stands;
`whole` says that the bounds are exactly that, cut off at the ends: one document a row and no padding.
`memo` is `TokenLayout.memo`, to share what follows from the bounds between layers.
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
    """The leanest path that can honour every argument: `fused`, `flex`, `banded` or `blocked`.

    On a GPU torch's fused attention takes what needs neither softcap nor mask; all else is FlexAttention's where it is
    asked for, and else goes by bands in a window, by blocks with a softcap, by fused attention with a mask. On a CPU
    blocks of queries are faster: torch's own blocks skip less of what causality hides (docs/notebook.md).
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
