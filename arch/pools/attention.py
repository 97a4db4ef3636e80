"""Attention pooling: a learned query attends to the tokens of a text (EmbeddingGemma, table 3: four heads).

Shapes: B rows, T tokens, D model width, H heads, C channels per head (D / H).
"""

import torch
from torch import Tensor, nn

from arch.layout import TokenLayout
from arch.linear import Linear
from arch.parameters import Context, drawn, parameter
from arch.registry import pool
from arch.spec import Count, Spec


@pool
class Attention(nn.Module):
    """y = W_o softmax(C^-1/2 q (W_k x)^T) W_v x with a learned q per head, over the tokens of the row; softmax in float32."""

    class Config(Spec):
        """heads: H; it divides the model's width, of which each head has an equal part."""

        heads: Count = 4

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls(), cls(heads=1)]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        if context.dim % config.heads:
            raise ValueError(f"heads: {config.heads} does not divide dim = {context.dim}")
        channels = context.dim // config.heads
        # A query is drawn like the row of a map with C inputs. So scores start small, and the pool near the mean of W_v x.
        self.query = parameter((config.heads, channels), "vector", drawn(context.init.matrix, channels, context.layers))
        self.k = Linear(context.dim, context.dim, context)
        self.v = Linear(context.dim, context.dim, context)
        self.o = Linear(context.dim, context.dim, context)

    def pooling_flops(self, layout: TokenLayout) -> int:
        """FLOPs over the whole layout: k, v, scores and weighted values of each token; the output map of each row."""
        rows, tokens = layout.shape
        dim = self.query.numel()
        return rows * (tokens * (4 * dim * dim + 4 * dim) + 2 * dim * dim)

    def forward(self, hidden_BTD: Tensor, layout: TokenLayout) -> Tensor:
        heads, channels = self.query.shape
        # What is not finite at padding would come through a weight of 0, because NaN * 0 is NaN.
        own_BTD = hidden_BTD.masked_fill(~layout.seen_BT[..., None], 0.0)
        k_BTHC, v_BTHC = (each(own_BTD).unflatten(-1, (heads, channels)) for each in (self.k, self.v))
        wide = torch.promote_types(hidden_BTD.dtype, torch.float32)
        z_BTH = (k_BTHC.to(wide) * self.query.to(wide)).sum(-1) * channels**-0.5
        # The least number, not -inf: a row that is all padding would give NaN.
        p_BTH = z_BTH.masked_fill(~layout.seen_BT[..., None], torch.finfo(wide).min).softmax(1)
        y_BHC = (p_BTH[..., None] * v_BTHC.to(wide)).sum(1)
        return self.o(y_BHC.flatten(1).to(hidden_BTD.dtype))
