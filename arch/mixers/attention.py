"""Softmax attention with a window or without: MHA, GQA and MQA; Gemma 2's softcap, Gemma 3's QK-norm.

Shapes: B rows, T tokens, S keys, D model width, H query heads, K key/value heads, C channels a head, W window.
"""

from dataclasses import dataclass, replace

import torch
from pydantic import model_validator
from torch import nn

from arch.kernels.attention import attend
from arch.layers import Linear, RMSNorm, rotary
from arch.registry import mixer
from arch.spec import Count, Fraction, Positive, Spec


class Rope(Spec):
    """Rotary positions: base `theta`, positions divided by `scale`, on the first `fraction` of each head's channels."""

    theta: Positive = 10_000.0
    scale: Positive = 1.0
    fraction: Fraction = 1.0


class BothSides(Spec):
    """An encoder's window: this many visible tokens before and after the token itself."""

    before: Count
    after: Count


@dataclass(frozen=True)
class AttentionState:
    """Keys (already rotated) and values of earlier tokens: a ring of `slots` of which token n has slot n mod slots."""

    k_BSKC: torch.Tensor
    v_BSKC: torch.Tensor
    seen: int = 0


@mixer
class Attention(nn.Module):
    """o = W_o softmax(cap(s q k^T)) v, with RMSNorm on q and k before rotary where `qk_norm` (Gemma 3, section 2).

    A state is written in place: the one passed in is used up.
    """

    class Config(Spec):
        """heads, kv_heads: H and K (K = H is MHA, 1 is MQA); head_dim: C, by default D / H.

        window: W visible keys, the token itself included; `{before, after}` where `causal` is false; null is global.
        softcap: c tanh(z / c) on scores. query_scale: s, by default C^-1/2. rope: null for none.
        bias: on q, k, v; output_bias: on the output.
        """

        heads: Count
        kv_heads: Count | None = None
        head_dim: Count | None = None
        causal: bool = True
        window: Count | BothSides | None = None
        softcap: Positive | None = None
        query_scale: Positive | None = None
        qk_norm: bool = False
        rope: Rope | None = Rope()
        bias: bool = False
        output_bias: bool = False

        @model_validator(mode="before")
        @classmethod
        def _multi_head_by_default(cls, data):
            if isinstance(data, dict) and data.get("kv_heads") is None and type(data.get("heads")) is int:
                return {**data, "kv_heads": data["heads"]}
            return data

        @model_validator(mode="after")
        def _fits(self):
            if self.heads % self.kv_heads:
                raise ValueError(f"kv_heads: {self.kv_heads} does not divide heads = {self.heads}")
            if self.rope and self.head_dim and int(self.head_dim * self.rope.fraction) % 2:
                raise ValueError(f"head_dim: rotary needs an even number of channels, {self._rotated(self.head_dim)}")
            if self.causal and isinstance(self.window, BothSides):
                raise ValueError("window: {before, after} is for `causal: false`; a causal window is one number")
            if not self.causal and isinstance(self.window, int):
                raise ValueError("window: with `causal: false` say {before: B, after: A}")
            return self

        def _rotated(self, channels):
            return f"{self.rope.fraction:g} of {channels} is {channels * self.rope.fraction:g}"

        @classmethod
        def examples(cls):
            """Valid instances for the test battery."""
            return [
                cls(heads=4, head_dim=8),
                cls(heads=4, kv_heads=2, head_dim=8, window=5, softcap=5.0, qk_norm=True),
                cls(heads=2, kv_heads=1, window=3, query_scale=0.3, rope=Rope(theta=1e6, scale=8.0), output_bias=True),
                cls(heads=2, kv_heads=1, rope=Rope(fraction=0.5), softcap=5.0, bias=True),
                cls(heads=2, rope=None),
                cls(heads=2, causal=False, qk_norm=True),
                cls(heads=2, kv_heads=1, causal=False, window=BothSides(before=2, after=3)),
            ]

    def __init__(self, config, context):
        super().__init__()
        self.config = config
        if config.head_dim is None and context.dim % config.heads:
            raise ValueError(f"heads: {config.heads} does not divide dim = {context.dim}; give head_dim")
        self.channels = config.head_dim or context.dim // config.heads
        if config.rope and int(self.channels * config.rope.fraction) % 2:
            raise ValueError(f"rotary needs an even number of channels, {config._rotated(self.channels)}; give head_dim")
        self.q = Linear(context.dim, config.heads * self.channels, context, bias=config.bias)
        self.k = Linear(context.dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.v = Linear(context.dim, config.kv_heads * self.channels, context, bias=config.bias)
        self.o = Linear(config.heads * self.channels, context.dim, context, kind="output", bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.channels, context.norm_eps)
            self.k_norm = RMSNorm(self.channels, context.norm_eps)

    @property
    def causal(self):
        return self.config.causal

    @property
    def state_size(self):
        """`window`: at most W slots; `growing`: one a token; None: this mixer sees ahead and keeps no state."""
        return None if not self.causal else "growing" if self.config.window is None else "window"

    @property
    def reach(self):
        """(before, after): tokens a query may see on each side of itself, None for all of the document's."""
        window = self.config.window
        if isinstance(window, BothSides):
            return window.before, window.after
        return None if window is None else window - 1, 0 if self.causal else None

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        """An empty state for streams of up to `capacity` tokens: min(capacity, W) slots."""
        slots = min(capacity, self.config.window or capacity)
        shape = (batch, slots, self.config.kv_heads, self.channels)
        return AttentionState(*(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"))

    def mixing_flops(self, layout):
        """Contractions between positions that the visible pairs need, over the whole layout: q k^T and p v."""
        low_BT, high_BT = layout.interval(*self.reach)
        pairs = int((high_BT - low_BT + 1).sum())
        return 4 * self.config.heads * self.channels * pairs

    def forward(self, x_BTD, layout, state=None):
        q_BTHC = self.q(x_BTD).unflatten(-1, (-1, self.channels))
        k_BTKC = self.k(x_BTD).unflatten(-1, (-1, self.channels))
        v_BTKC = self.v(x_BTD).unflatten(-1, (-1, self.channels))
        if self.config.qk_norm:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        if self.config.rope:
            q_BTHC, k_BTKC = (rotary(x, layout, self.config.rope) for x in (q_BTHC, k_BTKC))
        scale = self.config.query_scale or self.channels**-0.5
        if state is None:
            low_BT, high_BT = layout.interval(*self.reach)
            window = self.config.window if self.causal else None
            y_BTHC = attend(
                q_BTHC, k_BTKC, v_BTKC, low_BT, high_BT, scale, window, self.config.softcap, memo=layout.memo
            )
        else:
            low_BT, high_BT = layout.interval(*self.reach, first=state.seen)
            k_BSKC, v_BSKC, index_S = _with_earlier(state, k_BTKC, v_BTKC)
            y_BTHC = attend(
                q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, softcap=self.config.softcap, index_S=index_S
            )
            state = _written(state, k_BTKC, v_BTKC)
        return self.o(y_BTHC.flatten(2)), state


def _with_earlier(state, k_BTKC, v_BTKC):
    """The ring's keys and values, then the new ones, and the stream index of each (-1: an empty slot)."""
    slots, tokens = state.k_BSKC.shape[1], k_BTKC.shape[1]
    slot_S = torch.arange(slots, device=k_BTKC.device)
    index_S = state.seen - 1 - (state.seen - 1 - slot_S) % slots
    new_T = torch.arange(state.seen, state.seen + tokens, device=k_BTKC.device)
    index = torch.cat([torch.where(index_S < 0, -1, index_S), new_T])
    return torch.cat([state.k_BSKC, k_BTKC], 1), torch.cat([state.v_BSKC, v_BTKC], 1), index


def _written(state, k_BTKC, v_BTKC):
    """The state after the new tokens, of which only the last `slots` are kept."""
    slots, tokens = state.k_BSKC.shape[1], k_BTKC.shape[1]
    kept = min(slots, tokens)
    index = torch.arange(state.seen + tokens - kept, state.seen + tokens, device=k_BTKC.device) % slots
    state.k_BSKC[:, index] = k_BTKC[:, -kept:].to(state.k_BSKC.dtype)
    state.v_BSKC[:, index] = v_BTKC[:, -kept:].to(state.v_BSKC.dtype)
    return replace(state, seen=state.seen + tokens)
