"""A gated short convolution: Griffin's recurrent block (Griffin, section 2.3) without its recurrence.

A layer sees J - 1 tokens back and no further, so it is put beside layers that see more, as in hybrids of short convolutions and
attention. Shapes: B rows, T tokens, D model width, R width of the convolution, J taps.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from arch.convolution import CausalConvolution
from arch.kernels.glu import glu
from arch.layout import TokenLayout
from arch.linear import Linear
from arch.parameters import Context
from arch.registry import mixer
from arch.spec import Count, Spec


@dataclass(frozen=True)
class ConvolutionState:
    """The convolution's last J - 1 inputs."""

    tail_BJR: torch.Tensor


@mixer
class ShortConvolution(nn.Module):
    """y = W_o (conv(W_x x) * gelu(W_y x)), with a causal convolution of J taps per channel."""

    class Config(Spec):
        """width: R, by default D. taps: J, of the convolution; up to 8 are fast on a CPU. bias: whether all maps have one."""

        width: Count | None = None
        taps: Annotated[int, Field(ge=2, le=256)] = 4
        bias: bool = True

        def at_width(self, dim: int) -> "ShortConvolution.Config":
            """The same with `width` written out, in a model of width `dim`."""
            return self.model_copy(update={"width": self.width or dim})

        @classmethod
        def examples(cls):
            """Valid instances for the test battery."""
            return [cls(), cls(width=24, taps=3, bias=False)]

    causal = True
    state_size = "constant"

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        width = config.width or context.dim
        self.x = Linear(context.dim, width, context, bias=config.bias)
        self.y = Linear(context.dim, width, context, bias=config.bias)
        self.o = Linear(width, context.dim, context, kind="output", bias=config.bias)
        self.conv = CausalConvolution(width, config.taps)

    @property
    def reach(self) -> tuple[int, int]:
        """Tokens before and after itself that a token sees."""
        return self.config.taps - 1, 0

    def init_state(self, batch: int, capacity: int, dtype: Any = torch.float32, device: Any = None) -> ConvolutionState:
        """An empty state; its size does not depend on `capacity`."""
        return ConvolutionState(self.conv.empty(batch, dtype, device))

    def mixing_flops(self, layout: TokenLayout) -> int:
        """0: the convolution is element-wise work, which is not counted, as in the recurrent block."""
        return 0

    def forward(self, x_BTD: Tensor, layout: TokenLayout, state: ConvolutionState | None = None) -> tuple[Tensor, ConvolutionState]:
        if state is None:
            state = self.init_state(*layout.shape, x_BTD.dtype, x_BTD.device)
        u_BTR, tail_BJR = self.conv(self.x(x_BTD), layout, state.tail_BJR)
        return self.o(glu(self.y(x_BTD), u_BTR)), ConvolutionState(tail_BJR)
