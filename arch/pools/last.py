"""Last-token pooling: the vector of a text is the hidden state of its last token (EmbeddingGemma, table 3).

Shapes: B rows, T tokens, D model width.
"""

from torch import Tensor, nn

from arch.layout import TokenLayout
from arch.parameters import Context
from arch.registry import pool
from arch.spec import Spec


@pool
class Last(nn.Module):
    """y = x_t of the last token of the row that is no padding: its `<eos>`, which a causal model needs to have seen it all."""

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
        return layout.picked(hidden_BTD, layout.last_B)
