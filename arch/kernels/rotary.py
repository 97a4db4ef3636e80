"""Rotary positions in C for float32 and bfloat16 on the CPU (`rotary.c`: one pass; the gradient is the same, turned back).

`arch.rotary` has the torch path, which runs where the C path cannot. `native.path("rotary")` says which one runs.
"""

import torch

from arch.kernels import native

SIGNATURES = {"rotary": [native.POINTER] * 4 + [native.INTEGER] * 6 + [native.REAL, native.INTEGER]}


def turned(x_BTHC, cos_BT1C, sin_BT1c, sign):
    """x with its pairs turned by their angles times `sign` (1 or -1), in x's type; None if C cannot take these tensors.

    B of the angles is 1 where all rows have the same.
    """
    library = native.library("rotary", (x_BTHC,), SIGNATURES, small=(cos_BT1C, sin_BT1c))
    if library is None:
        return None
    x_BTHC, cos_BT1C, sin_BT1c = x_BTHC.contiguous(), cos_BT1C.float().contiguous(), sin_BT1c.float().contiguous()
    y_BTHC = torch.empty_like(x_BTHC)
    addresses = (x.data_ptr() for x in (x_BTHC, cos_BT1C, sin_BT1c, y_BTHC))
    library.rotary(*addresses, *x_BTHC.shape, sin_BT1c.shape[-1], len(cos_BT1C), sign, torch.get_num_threads())
    return y_BTHC
