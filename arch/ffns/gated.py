"""Gated feed-forward network: GeGLU in the tanh form, SwiGLU or ReGLU (Shazeer 2020; Gemma 2, section 2; Griffin, 2.2).

Shapes: B rows, T tokens, D model width, F hidden width.
"""

from typing import Literal

from torch import Tensor, nn

from arch.kernels.glu import glu
from arch.linear import Linear
from arch.parameters import Context
from arch.registry import ffn
from arch.spec import Count, Spec


@ffn
class Gated(nn.Module):
    """y = W_down (activation(W_gate x) * W_up x)."""

    class Config(Spec):
        """hidden: F, the width of each branch. activation: of the gate. bias: whether the three maps have one."""

        hidden: Count
        activation: Literal["gelu_tanh", "silu", "relu"] = "gelu_tanh"
        bias: bool = False

        @classmethod
        def examples(cls):
            """Valid instances for the test battery."""
            return [cls(hidden=24), cls(hidden=20, activation="silu", bias=True), cls(hidden=24, activation="relu")]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        self.gate = Linear(context.dim, config.hidden, context, bias=config.bias, stack=2)
        self.up = Linear(context.dim, config.hidden, context, bias=config.bias, stack=2)
        self.down = Linear(config.hidden, context.dim, context, kind="output", bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(glu(self.gate(x_BTD), self.up(x_BTD), self.config.activation))
