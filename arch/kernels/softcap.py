"""cap tanh(z / cap), alone or with a softmax after it, and a softmax whose results are rounded to bfloat16, in place.

C does each in one call for float32 scores on the CPU (`softcap.c`); torch needs several passes over memory.
`native.path("softcap")` says which one runs on the CPU; that of bfloat16 is for probabilities that are factors in bfloat16.
"""

import torch

from arch.kernels import native

SIGNATURES = {
    "softcap": [native.POINTER] * 2 + [native.INTEGER] + [native.REAL] * 2 + [native.INTEGER],
    "softcap_softmax": [native.POINTER] * 3 + [native.INTEGER] * 2 + [native.REAL, native.INTEGER],
    "softcap_softmax_backward": [native.POINTER] * 4 + [native.INTEGER] * 3,
}


def compiled(*tensors, rounding=False):
    """The C functions, or None if they cannot take these float32 tensors. rounding: those that round to bfloat16."""
    if not all(x.is_contiguous() and x.dtype is torch.float32 for x in tensors):
        return None
    return native.library("softcap", (), SIGNATURES, small=tensors, dtype=torch.bfloat16 if rounding else torch.float32)


def cap_(z, t, cap, factor=1.0):
    """t becomes tanh(z / cap), and z becomes factor * cap * t. z and t have the same shape."""
    library = compiled(z, t)
    if library is None:
        torch.tanh(z.div_(cap), out=t)
        torch.mul(t, cap * factor, out=z)
    else:
        library.softcap(z.data_ptr(), t.data_ptr(), z.numel(), 1 / cap, cap * factor, torch.get_num_threads())


def softmax_(library, z, t, cap, narrow=None):
    """z becomes the softmax of cap tanh(z) over the last axis, where -inf stays hidden. t (or None) becomes tanh(z).

    cap: None for the softmax of z alone. narrow: a bfloat16 tensor that gets the same, or None. Only functions that round take
    these two.
    """
    addresses = (None if x is None else x.data_ptr() for x in (z, t, narrow))
    library.softcap_softmax(*addresses, z.numel() // z.shape[-1], z.shape[-1], cap or 0.0, torch.get_num_threads())


def softmax_backward_(library, d, p, t, narrow=None):
    """d, the gradient of the probabilities p, becomes the gradient of `softmax_`'s z divided by cap, or of z without a cap.

    t: of `softmax_`; None without a cap. narrow: a bfloat16 tensor that gets the result in place of d, or None.
    """
    addresses = (None if x is None else x.data_ptr() for x in (d, p, t, narrow))
    library.softcap_softmax_backward(*addresses, d.numel() // d.shape[-1], d.shape[-1], torch.get_num_threads())
