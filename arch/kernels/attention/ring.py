"""Attention of one new token per row over a ring of keys, in any order.

Shapes: see `arch.kernels.attention`; G query heads share a key/value head.
"""

import torch


def ring(q_B1HC, k_BKSC, v_BKSC, scale, hidden_BS=None, softcap=None):
    """softmax(cap(scale q k^T)) v over all S slots except those in `hidden_BS` (B, S) bool; softmax in float32.

    Keys are neither copied nor repeated for the heads that share them. Returns (B, 1, H, C).
    """
    q_XGC, k_XSC, v_XSC = (x.flatten(0, 1) for x in (q_B1HC[:, 0].unflatten(1, (k_BKSC.shape[1], -1)), k_BKSC, v_BKSC))
    z_XGS = torch.bmm(q_XGC * scale, k_XSC.transpose(1, 2)).float()
    if softcap is not None:
        z_XGS = softcap * torch.tanh(z_XGS / softcap)
    if hidden_BS is not None:
        z_XGS = z_XGS.unflatten(0, (len(k_BKSC), -1)).masked_fill(hidden_BS[:, None, None], float("-inf")).flatten(0, 1)
    y_XGC = torch.bmm(z_XGS.softmax(-1).to(v_XSC.dtype), v_XSC)
    return y_XGC.view(len(k_BKSC), 1, -1, y_XGC.shape[-1])
