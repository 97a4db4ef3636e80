"""Linear maps: y = x W^T + b, and the block-diagonal maps of Griffin's gates.

Shapes: B rows, T tokens, R width of the map.
"""

import math
from typing import Any, Literal

from einops import rearrange
from torch import Tensor, nn

from arch.kernels import products
from arch.parameters import Context, constant, drawn, fan_in, normal, parameter


class Linear(nn.Module):
    """y = x W^T + b.

    kind: `matrix`, or `output` for a map that writes into the residual stream. stack: the number of matrices, this one
    included, that the reference Griffin code stores as one tensor (see `InitSpec.stacked`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context: Context,
        kind: Literal["matrix", "output"] = "matrix",
        bias: bool = False,
        stack: int = 1,
    ):
        super().__init__()
        draw = drawn(getattr(context.init, kind), fan_in(inputs, stack, context), context.layers)
        self.weight = parameter((outputs, inputs), "matrix", draw)
        self.bias = parameter((outputs,), "vector", constant(0.0)) if bias else None
        self.fake: Any = None  # what rounds the weight (`arch.quantised`), in a model with `quantise`

    @property
    def used(self) -> Tensor:
        """The weight as it is multiplied: rounded where the model is quantised."""
        return self.weight if self.fake is None else self.fake(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return products.linear(x, self.used, self.bias)


class BlockDiagonalLinear(nn.Module):
    """y = x W + b, where W has `blocks` equal square blocks on its diagonal (Griffin, section 4.1)."""

    def __init__(self, width: int, blocks: int, context: Context):
        super().__init__()
        if width % blocks:
            raise ValueError(f"blocks: {blocks} does not divide width = {width}")
        each = width // blocks
        draw = normal(1 / math.sqrt(fan_in(each, blocks, context)))
        self.weight = parameter((blocks, each, each), "matrix", draw, recurrent=True)
        self.bias = parameter((blocks, each), "vector", constant(0.0), recurrent=True)

    def forward(self, x_BTR: Tensor) -> Tensor:
        rows, blocks = len(x_BTR), len(self.weight)
        x_NXr = rearrange(x_BTR, "b t (n r) -> n (b t) r", n=blocks)
        y_NXr = products.blocks(x_NXr, self.weight, self.bias)
        return rearrange(y_NXr, "n (b t) r -> b t (n r)", b=rows)
