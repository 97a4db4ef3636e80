"""Cross-attention: a sub-layer of its own, in which the decoder reads the encoder (T5Gemma, Zhang et al. 2025).

Shapes: B rows, T tokens of the target, S tokens of the source, D model width, H query heads, K key/value heads, C channels per
head.
"""

from typing import Any

from pydantic import model_validator
from torch import Tensor, nn

from arch import heads
from arch.encoded import Encoded
from arch.kernels.attention.masked import masked
from arch.layout import TokenLayout
from arch.linear import Linear
from arch.norm import RMSNorm
from arch.parameters import Context
from arch.registry import cross
from arch.spec import Count, Positive, Spec


@cross
class CrossAttention(nn.Module):
    """o = W_o softmax(cap(s q k^T)) v, with q of the decoder's tokens, k and v of the encoder's last states.

    Without positions and without a window: a token sees all of its own document's source. One without a source gives zeros.
    """

    class Config(Spec):
        """heads: H, of the queries; kv_heads: K, of keys and values, by default H; head_dim: C, by default D / H.

        softcap: c in c tanh(z / c), applied to scores. query_scale: s, by default C^-1/2. qk_norm: RMSNorm on q and k.
        bias: whether the maps to q, k and v have one; output_bias: whether the output's has.
        """

        heads: Count
        kv_heads: Count | None = None
        head_dim: Count | None = None
        softcap: Positive | None = None
        query_scale: Positive | None = None
        qk_norm: bool = False
        bias: bool = False
        output_bias: bool = False

        @model_validator(mode="before")
        @classmethod
        def _multi_head_by_default(cls, data):
            return heads.multi_head(data)

        @model_validator(mode="after")
        def _fits(self):
            heads.check(self.heads, self.kv_heads)
            return self

        def at_width(self, dim: int) -> "CrossAttention.Config":
            """The same with `head_dim` and `query_scale` written out, in a model of width `dim`."""
            return heads.written_out(self, dim)

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [
                cls(heads=4, head_dim=8),
                cls(heads=4, kv_heads=2, softcap=5.0, query_scale=0.3),
                cls(heads=2, qk_norm=True, bias=True),
            ]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        if context.source_dim is None:
            raise ValueError("it reads an encoder, and the model has none (`encoder`)")
        self.channels = heads.channels(config, context.dim)
        self.q = Linear(context.dim, config.heads * self.channels, context, bias=config.bias)
        self.k = Linear(context.source_dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.v = Linear(context.source_dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.o = Linear(config.heads * self.channels, context.dim, context, kind="output", bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.channels, context.norm_eps)
            self.k_norm = RMSNorm(self.channels, context.norm_eps)

    def reading_flops(self, tokens: int, source: int) -> int:
        """FLOPs of q k^T and p v, and what keys and values of `source` tokens cost more than those of `tokens` would."""
        maps = self.k.weight.numel() + self.v.weight.numel()
        return 4 * self.config.heads * self.channels * tokens * source + 2 * maps * (source - tokens)

    def keys_values(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """(k_BSKC, v_BSKC) of a source, computed once."""
        return encoded.kept(self, lambda: self._keys_values(encoded.hidden_BSD))

    def _keys_values(self, hidden_BSD):
        k_BSKC, v_BSKC = (map_(hidden_BSD).unflatten(-1, (-1, self.channels)) for map_ in (self.k, self.v))
        return (self.k_norm(k_BSKC) if self.config.qk_norm else k_BSKC), v_BSKC

    def forward(self, x_BTD: Tensor, layout: TokenLayout, encoded: Encoded) -> Any:
        q_BTHC = self.q(x_BTD).unflatten(-1, (-1, self.channels))
        q_BTHC = self.q_norm(q_BTHC) if self.config.qk_norm else q_BTHC
        scale = self.config.query_scale or self.channels**-0.5
        y_BTHC = masked(q_BTHC, *self.keys_values(encoded), encoded.seen_BTS(layout), scale, self.config.softcap)
        return self.o(y_BTHC.flatten(2))
