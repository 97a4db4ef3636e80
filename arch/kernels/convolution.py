"""The causal depthwise convolution of `arch.convolution`.

There is a plain torch path, and a C path for float32 and bfloat16 on the CPU (`convolution.c`: one pass forward, one
backward). Both compute in float32 at least, and the output has the input's type.
`native.path("convolution")` says which one runs on the CPU.

Shapes: B rows, T tokens, R channels, J taps.
"""

import torch
from torch.autograd.function import once_differentiable

from arch.kernels import native
from arch.kernels.recomputed import recomputed

SIGNATURES = {
    "convolution": [native.POINTER] * 6 + [native.INTEGER] * 5,
    "convolution_backward": [native.POINTER] * 8 + [native.INTEGER] * 5,
}
MOST = 8  # taps at most, as in convolution.c


def reference(x_BTR, tail_BJR, pos_BT, weight_JR, bias_R):
    """y_t = bias + sum over j of weight_(J-1-j) x_(t-j); a tap that reaches before the token's document sees 0.

    tail_BJR: the J - 1 inputs before the first token. pos_BT: positions within the document.
    """
    given, tokens, taps = x_BTR.dtype, x_BTR.shape[1], len(weight_JR)
    type_ = torch.promote_types(given, torch.float32)
    x_BTR, tail_BJR, weight_JR, bias_R = (x.to(type_) for x in (x_BTR, tail_BJR.to(given), weight_JR, bias_R))
    padded_BTR = torch.cat([tail_BJR, x_BTR], dim=1)
    y_BTR = bias_R + weight_JR[-1] * x_BTR
    for back in range(1, taps):
        inside_BT1 = (pos_BT >= back)[..., None]
        shifted_BTR = padded_BTR[:, taps - 1 - back : taps - 1 - back + tokens]
        y_BTR = y_BTR + weight_JR[-1 - back] * torch.where(inside_BT1, shifted_BTR, 0)
    return y_BTR.to(given)


def convolution(x_BTR, tail_BJR, pos_BT, weight_JR, bias_R):
    """The same as `reference`, by the fastest path that takes these tensors."""
    given = x_BTR, tail_BJR, pos_BT, weight_JR, bias_R
    if len(weight_JR) <= MOST and pos_BT.dtype == torch.long and _agree(*given):
        library = native.library("convolution", (x_BTR, tail_BJR), SIGNATURES, small=(weight_JR, bias_R))
        if library is not None:
            return _Convolution.apply(*given, library)
    return recomputed(reference, *given)


def _agree(x_BTR, tail_BJR, pos_BT, weight_JR, bias_R):
    """Whether the shapes are those of `reference`: C would read beyond the end of a smaller tensor."""
    rows, tokens, width = x_BTR.shape
    taps = len(weight_JR)
    shapes = [tail_BJR.shape, pos_BT.shape, weight_JR.shape, bias_R.shape]
    return shapes == [(rows, taps - 1, width), (rows, tokens), (taps, width), (width,)]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BTR, tail_BJR, pos_BT, weight_JR, bias_R, library):
        x_BTR, *rest = (x.contiguous() for x in (x_BTR, tail_BJR, pos_BT, weight_JR.float(), bias_R.float()))
        ctx.save_for_backward(x_BTR, *rest[:-1])
        ctx.library, y_BTR, ctx.types = library, torch.empty_like(x_BTR), (weight_JR.dtype, bias_R.dtype)
        addresses = (x.data_ptr() for x in (x_BTR, *rest, y_BTR))
        library.convolution(*addresses, *x_BTR.shape, len(weight_JR), torch.get_num_threads())
        return y_BTR

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_BTR):
        dy_BTR, (x_BTR, tail_BJR, _, weight_JR) = dy_BTR.contiguous(), ctx.saved_tensors
        dx_BTR, dtail_BJR = torch.empty_like(x_BTR), torch.empty_like(tail_BJR)
        (rows, tokens, width), taps = x_BTR.shape, len(weight_JR)
        sums = x_BTR.new_empty(rows, taps + 1, width, dtype=torch.float64)
        addresses = (x.data_ptr() for x in (dy_BTR, *ctx.saved_tensors, dx_BTR, dtail_BJR, sums))
        ctx.library.convolution_backward(*addresses, rows, tokens, width, taps, torch.get_num_threads())
        sums, (weight_type, bias_type) = sums.sum(0).float(), ctx.types
        return dx_BTR, dtail_BJR, None, sums[:-1].to(weight_type), sums[-1].to(bias_type), None
