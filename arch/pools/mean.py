"""Mean pooling: the vector of a text is the mean of its tokens' hidden states (EmbeddingGemma, section 2.1).

Shapes: B rows, T tokens, D model width.
"""

import torch
from torch import Tensor, nn

from arch.layout import TokenLayout
from arch.parameters import Context
from arch.registry import pool
from arch.spec import Spec


@pool
class Mean(nn.Module):
    """y = the mean of x_t over the tokens of the row, padding left out; summed in float32."""

    class Config(Spec):
        """No options."""

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls()]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config

    def forward(self, hidden_BTD: Tensor, layout: TokenLayout) -> Tensor:
        wide = torch.promote_types(hidden_BTD.dtype, torch.float32)
        # Not hidden * seen: what is not finite at padding would stay so, because NaN * 0 is NaN.
        own_BTD = hidden_BTD.masked_fill(~layout.seen_BT[..., None], 0.0)
        count_B1 = layout.seen_BT.sum(1, keepdim=True).clamp(min=1)
        return (own_BTD.sum(1, dtype=wide) / count_B1).to(hidden_BTD.dtype)
