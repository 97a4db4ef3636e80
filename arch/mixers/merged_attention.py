"""Merged attention: a decoder's self-attention and cross-attention as one (T5Gemma 2, Zhang et al. 2025, section 2).

Shapes: B rows, T tokens, S keys, D model width, H query heads, K key/value heads, C channels per head, W window.
"""

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from arch import heads
from arch.encoded import Encoded
from arch.kernels.attention.masked import masked
from arch.kernels.attention.reference import visible
from arch.keys_values import AttentionState
from arch.layout import TokenLayout
from arch.linear import Linear
from arch.mixers.attention import Rope
from arch.norm import RMSNorm
from arch.parameters import Context
from arch.registry import mixer
from arch.rotary import angles, rotary
from arch.spec import Count, Positive, Spec


@mixer
class MergedAttention(nn.Module):
    """o = W_o softmax(cap(s q [k; k'])) [v; v']: one softmax over the decoder's keys k and the encoder's keys k'.

    The maps are the same for both. Keys of the decoder have rotary positions, and a window if there is one; those of the encoder
    have neither, so that a token sees all of its own document's source. With no source it is causal self-attention.
    A state is written in place: do not use the state passed in again.
    """

    reads_encoder = True

    class Config(Spec):
        """heads: H, of the queries; kv_heads: K, of keys and values, by default H; head_dim: C, by default D / H.

        window: W visible keys of the decoder, the token itself included; null for all. softcap: c in c tanh(z / c), applied to
        scores. query_scale: s, by default C^-1/2. qk_norm: RMSNorm on q and k. rope: rotary positions; null for none.
        bias: whether the maps to q, k and v have one; output_bias: whether the output's has.
        """

        heads: Count
        kv_heads: Count | None = None
        head_dim: Count | None = None
        window: Count | None = None
        softcap: Positive | None = None
        query_scale: Positive | None = None
        qk_norm: bool = False
        rope: Rope | None = Rope()
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

        def at_width(self, dim: int) -> "MergedAttention.Config":
            """The same with `head_dim` and `query_scale` written out, in a model of width `dim`."""
            return heads.written_out(self, dim)

        @classmethod
        def examples(cls):
            """Valid instances for the test battery."""
            return [
                cls(heads=4, head_dim=8),
                cls(heads=4, kv_heads=2, head_dim=8, window=5, softcap=5.0, qk_norm=True),
                cls(heads=2, kv_heads=1, query_scale=0.3, rope=None),
                cls(heads=2, bias=True),
            ]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        self.channels = heads.channels(config, context.dim)
        if config.rope and int(self.channels * config.rope.fraction) % 2:
            raise ValueError(
                f"rotary needs an even number of channels, not {self.channels * config.rope.fraction:g}; give head_dim"
            )
        if context.source_dim not in (None, context.dim):
            raise ValueError(
                f"its keys have one map for both stacks: the encoder's width {context.source_dim} is not {context.dim}"
            )
        self.q = Linear(context.dim, config.heads * self.channels, context, bias=config.bias)
        self.k = Linear(context.dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.v = Linear(context.dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.o = Linear(config.heads * self.channels, context.dim, context, kind="output", bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.channels, context.norm_eps)
            self.k_norm = RMSNorm(self.channels, context.norm_eps)

    causal = True

    @property
    def state_size(self) -> Literal["window", "growing"]:
        """`window`: at most W slots; `growing`: one slot per token. What it keeps of a source is in `Encoded`."""
        return "growing" if self.config.window is None else "window"

    @property
    def reach(self) -> tuple[int | None, int]:
        """(before, after): tokens of its own stack that a query may see on each side of itself."""
        return None if self.config.window is None else self.config.window - 1, 0

    def init_state(self, batch: int, capacity: int, dtype: Any = torch.float32, device: Any = None) -> AttentionState:
        """An empty state for `batch` streams of up to `capacity` tokens, with min(capacity, W) slots."""
        shape = (batch, self.config.kv_heads, min(capacity, self.config.window or capacity), self.channels)
        return AttentionState(*(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"), window=self.config.window)

    def mixing_flops(self, layout: TokenLayout) -> int:
        """FLOPs of q k^T and p v for the visible pairs of the decoder's tokens, over the whole layout."""
        low_BT, high_BT = layout.interval(*self.reach)
        return 4 * self.config.heads * self.channels * int((high_BT - low_BT + 1).sum())

    def reading_flops(self, tokens: int, source: int) -> int:
        """FLOPs that a source of so many tokens adds: its keys and values, q k^T and p v."""
        maps = self.k.weight.numel() + self.v.weight.numel()
        return 4 * self.config.heads * self.channels * tokens * source + 2 * maps * source

    def keys_values(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """(k_BSKC, v_BSKC) of a source, computed once; the keys without positions."""
        return encoded.kept(self, lambda: self._keys_values(encoded.hidden_BSD))

    def _keys_values(self, x_BTD):
        k_BTKC, v_BTKC = (map_(x_BTD).unflatten(-1, (-1, self.channels)) for map_ in (self.k, self.v))
        return (self.k_norm(k_BTKC) if self.config.qk_norm else k_BTKC), v_BTKC

    def forward(
        self, x_BTD: Tensor, layout: TokenLayout, state: AttentionState | None = None, encoded: Encoded | None = None
    ) -> tuple[Tensor, AttentionState | None]:
        q_BTHC = self.q(x_BTD).unflatten(-1, (-1, self.channels))
        q_BTHC = self.q_norm(q_BTHC) if self.config.qk_norm else q_BTHC
        k_BSKC, v_BSKC = self._keys_values(x_BTD)
        if self.config.rope:
            turn = angles(layout, self.channels, self.config.rope)
            q_BTHC, k_BSKC = rotary(q_BTHC, *turn), rotary(k_BSKC, *turn)
        if state is not None:
            state, k_BSKC, v_BSKC = state.extended(k_BSKC, v_BSKC)
        seen_BTS = self._seen_BTS(layout, k_BSKC.shape[1])
        if encoded is not None:
            k_BsKC, v_BsKC = self.keys_values(encoded)
            k_BSKC, v_BSKC = torch.cat([k_BSKC, k_BsKC], 1), torch.cat([v_BSKC, v_BsKC], 1)
            seen_BTS = torch.cat([seen_BTS, encoded.seen_BTS(layout)], -1)
        scale = self.config.query_scale or self.channels**-0.5
        y_BTHC = masked(q_BTHC, k_BSKC, v_BSKC, seen_BTS, scale, self.config.softcap)
        return self.o(y_BTHC.flatten(2)), state

    def _seen_BTS(self, layout, keys):
        """(B, T, S) bool: the keys of its own stack that a token sees; the tokens' own are the last."""

        def make():
            bounds = layout.interval(*self.reach, first=keys - layout.shape[1])
            return visible(*bounds, torch.arange(keys, device=layout.doc_BT.device))

        return layout.memo(("seen", self.reach, keys), make)
