"""Softmax attention over an interval of keys a query: a plain reference, and leaner paths that equal it.

Shapes: B rows, T queries, S keys, H query heads, K key/value heads, G = H / K, C channels a head.

A query t of row b sees the keys whose index lies in [low_BT[b, t], high_BT[b, t]]; every query sees at least one.
Queries are the newest of the keys: query t stands at key S - T + t, and S >= T. Two promises may come with the bounds:
`reach` (before, after), None for no limit, says that no query sees further than so many keys from where it stands;
`whole` says that the bounds are exactly that, cut off at the ends: one document a row and no padding.
`memo` is `TokenLayout.memo`, to share what follows from the bounds between layers.
"""

from arch.kernels.attention import tile
from arch.kernels.attention.banded import banded
from arch.kernels.attention.blocked import blocked
from arch.kernels.attention.fused import fused
from arch.kernels.attention.reference import reference
from arch.kernels.attention.ring import ring

__all__ = ["attend", "banded", "blocked", "fused", "reference", "ring", "tile"]


def attend(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach=(None, None), whole=False, softcap=None, memo=None):
    """Attention by the leanest path that can honour every argument; returns (B, T, H, C).

    On a GPU torch's fused attention takes what has neither softcap nor window. On a CPU blocks of queries are faster:
    torch's own blocks skip less of what causality hides (docs/notebook.md).
    """
    if None not in reach and q_BTHC.shape[1] > 2 * (sum(reach) + 1):
        return banded(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach, softcap, memo)
    if softcap is None and q_BTHC.device.type == "cuda":
        return fused(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach, whole, memo)
    return blocked(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, reach, whole, softcap, memo)
