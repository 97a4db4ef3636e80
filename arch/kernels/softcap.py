"""cap tanh(z / cap), alone or with a softmax after it, in place.

C does each in one call for float32 on the CPU (`softcap.c`); torch needs several passes over memory.
`native.path("softcap")` says which one runs on the CPU.
"""

import torch

from arch.kernels import native

SIGNATURES = {
    "softcap": [native.POINTER] * 2 + [native.INTEGER] + [native.REAL] * 2 + [native.INTEGER],
    "softcap_softmax": [native.POINTER] * 2 + [native.INTEGER] * 2 + [native.REAL, native.INTEGER],
    "softcap_softmax_backward": [native.POINTER] * 3 + [native.INTEGER] * 3,
}


def compiled(*tensors):
    """The C functions, or None if they cannot take these tensors."""
    dense = all(x.is_contiguous() for x in tensors)
    return native.library("softcap", tensors, SIGNATURES) if dense else None


def cap_(z, t, cap, factor=1.0):
    """t becomes tanh(z / cap), and z becomes factor * cap * t. z and t have the same shape."""
    library = compiled(z, t)
    if library is None:
        torch.tanh(z.div_(cap), out=t)
        torch.mul(t, cap * factor, out=z)
    else:
        library.softcap(z.data_ptr(), t.data_ptr(), z.numel(), 1 / cap, cap * factor, torch.get_num_threads())


def softmax_(library, z, t, cap):
    """z becomes the softmax of cap tanh(z) over the last axis, where -inf stays hidden. t (or None) becomes tanh(z)."""
    own = z.data_ptr(), t if t is None else t.data_ptr()
    library.softcap_softmax(*own, z.numel() // z.shape[-1], z.shape[-1], cap, torch.get_num_threads())


def softmax_backward_(library, d, p, t):
    """d, the gradient of the probabilities p, becomes the gradient of `softmax_`'s z divided by cap."""
    addresses = (x.data_ptr() for x in (d, p, t))
    library.softcap_softmax_backward(*addresses, d.numel() // d.shape[-1], d.shape[-1], torch.get_num_threads())
