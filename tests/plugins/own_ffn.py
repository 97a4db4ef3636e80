"""A feed-forward network of a user's own: y = W_2 max(0, W_1 x)^2 (So et al. 2021, "Primer", section 4)."""

from torch import nn

from arch.layers import Linear
from arch.registry import ffn
from arch.spec import Count, Spec


@ffn
class SquaredReLU(nn.Module):
    """Works on each token alone."""

    class Config(Spec):
        """hidden: F."""

        hidden: Count

        @classmethod
        def examples(cls):
            return [cls(hidden=24)]

    def __init__(self, config, context):
        super().__init__()
        self.up = Linear(context.dim, config.hidden, context)
        self.down = Linear(config.hidden, context.dim, context, kind="output")

    def forward(self, x_BTD):
        return self.down(self.up(x_BTD).relu().square())
