"""The short causal convolution that a mixer looks back with, one filter per channel: of Griffin's recurrent block, and alone.

Shapes: B rows, T tokens, R channels, J taps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from arch.kernels.convolution import convolution
from arch.layout import TokenLayout
from arch.parameters import constant, parameter


class CausalConvolution(nn.Module):
    """y_t = bias + the sum over j < J of weight_(J-1-j) x_(t-j), channel by channel; a tap before the token's document sees 0.

    With one tap it looks at no other token: it scales each channel. The first weights are drawn from N(0, 0.01 / J), as in
    Griffin's released code.
    """

    def __init__(self, width: int, taps: int):
        super().__init__()
        self.weight = parameter((taps, width), "vector", _normal(taps))
        self.bias = parameter((width,), "vector", constant(0.0))

    def empty(self, batch: int, dtype: Any = torch.float32, device: Any = None) -> Tensor:
        """The inputs before a first token, zeros: (B, J - 1, R)."""
        taps, width = self.weight.shape
        return torch.zeros(batch, taps - 1, width, dtype=dtype, device=device)

    def forward(self, x_BTR: Tensor, layout: TokenLayout, tail_BJR: Tensor) -> tuple[Tensor, Tensor]:
        """(y_BTR, new tail). tail_BJR: the J - 1 inputs before these."""
        tail_BJR, tokens = tail_BJR.to(x_BTR.dtype), x_BTR.shape[1]
        y_BTR = convolution(x_BTR, tail_BJR, layout.pos_BT, self.weight, self.bias)
        kept = len(self.weight) - 1
        recent_BTR = x_BTR[:, max(tokens - kept, 0) :]
        return y_BTR, torch.cat([tail_BJR, recent_BTR], dim=1)[:, recent_BTR.shape[1] :]


def _normal(taps):
    return lambda tensor, generator: tensor.normal_(0.0, math.sqrt(0.01 / taps), generator=generator)
