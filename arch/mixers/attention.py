"""Softmax attention, global or in a window: MHA, GQA and MQA, Gemma 2's softcap, Gemma 3's QK-norm.

Shapes: B rows, T tokens, S keys, D model width, H query heads, K key/value heads, C channels per head, W window.
"""

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from arch import heads
from arch.contracts import Attending
from arch.kernels.attention import attend, ring
from arch.keys_values import AttentionState
from arch.layout import TokenLayout
from arch.linear import Linear
from arch.norm import RMSNorm
from arch.parameters import Context
from arch.registry import mixer
from arch.rotary import angles, rotary
from arch.spec import Count, Fraction, Positive, Spec


class Rope(Spec):
    """Rotary positions. theta: the base. scale: positions are divided by it. fraction: of each head's channels, the first."""

    theta: Positive = 10_000.0
    scale: Positive = 1.0
    fraction: Fraction = 1.0


class BothSides(Spec):
    """An encoder's window. before, after: the numbers of visible tokens on each side of the token itself."""

    before: Count
    after: Count


@mixer
class Attention(nn.Module):
    """o = W_o softmax(cap(s q k^T)) v, with RMSNorm on q and k before rotary if `qk_norm` (Gemma 3, section 2).

    A state is written in place: do not use the state passed in again.
    """

    class Config(Spec):
        """heads: H, of the queries; kv_heads: K, of keys and values (H is MHA, 1 is MQA); head_dim: C, by default D / H.

        causal: whether a token sees only itself and what is before it.
        window: W visible keys, the token itself included; `{before, after}` if `causal` is false; null for global.
        softcap: c in c tanh(z / c), applied to scores. query_scale: s, by default C^-1/2. qk_norm: RMSNorm on q and k.
        rope: rotary positions; null for none.
        bias: whether the maps to q, k and v have one; output_bias: whether the output's has.
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
            return heads.multi_head(data)

        @model_validator(mode="after")
        def _fits(self):
            heads.check(self.heads, self.kv_heads)
            if self.rope and self.head_dim and int(self.head_dim * self.rope.fraction) % 2:
                raise ValueError(f"head_dim: rotary needs an even number of channels, {self._rotated(self.head_dim)}")
            if self.causal and isinstance(self.window, BothSides):
                raise ValueError("window: {before, after} is for `causal: false`; a causal window is one number")
            if not self.causal and isinstance(self.window, int):
                raise ValueError("window: with `causal: false` say {before: B, after: A}")
            return self

        def _rotated(self, channels):
            return f"{self.rope.fraction:g} of {channels} is {channels * self.rope.fraction:g}"

        def at_width(self, dim: int) -> "Attention.Config":
            """The same with `head_dim` and `query_scale` written out, in a model of width `dim`."""
            return heads.written_out(self, dim)

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

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        self.channels = heads.channels(config, context.dim)
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
    def causal(self) -> bool:
        return self.config.causal

    @property
    def state_size(self) -> Literal["window", "growing"] | None:
        """`window`: at most W slots; `growing`: one slot per token; None: not causal, no state."""
        return None if not self.causal else "growing" if self.config.window is None else "window"

    @property
    def reach(self) -> tuple[int | None, int | None]:
        """(before, after): tokens that a query may see on each side of itself; None for all of the document."""
        window = self.config.window
        if isinstance(window, BothSides):
            return window.before, window.after
        return None if window is None else window - 1, 0 if self.causal else None

    def init_state(self, batch: int, capacity: int, dtype: Any = torch.float32, device: Any = None) -> AttentionState:
        """An empty state for `batch` streams of up to `capacity` tokens, with min(capacity, W) slots."""
        slots = min(capacity, self.config.window or capacity)
        shape = (batch, self.config.kv_heads, slots, self.channels)
        return AttentionState(*(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"), window=self.config.window)

    def mixing_flops(self, layout: TokenLayout) -> int:
        """FLOPs of q k^T and p v for the visible pairs of query and key, over the whole layout."""
        low_BT, high_BT = layout.interval(*self.reach)
        pairs = int((high_BT - low_BT + 1).sum())
        return 4 * self.config.heads * self.channels * pairs

    def forward(
        self, x_BTD: Tensor, layout: TokenLayout, state: AttentionState | None = None
    ) -> tuple[Tensor, AttentionState | None]:
        # Call this first: it runs outside of a compiled block's program, and further down it would split the program.
        turn = angles(layout, self.channels, self.config.rope) if self.config.rope else None
        q_BTHC, k_BTKC = self._queries_and_keys(x_BTD, turn)
        v_BTKC = self.v(x_BTD).unflatten(-1, (-1, self.channels))
        if state is None:
            y_BTHC = self._attend(q_BTHC, k_BTKC, v_BTKC, layout, whole=layout.is_plain)
        elif x_BTD.shape[1] == 1:
            state = state.write(k_BTKC, v_BTKC)
            y_BTHC = self._attend_to_ring(q_BTHC, layout, state)
        else:
            whole = layout.is_plain and layout.first == state.seen
            state, k_BSKC, v_BSKC = state.extended(k_BTKC, v_BTKC)
            y_BTHC = self._attend(q_BTHC, k_BSKC, v_BSKC, layout, whole)
        return self.o(y_BTHC.flatten(2)), state

    @property
    def scale(self) -> float:
        return self.config.query_scale or self.channels**-0.5

    def attending(self, x_BTD: Tensor, layout: TokenLayout) -> Attending:
        """What the attention weights of these tokens are computed from."""
        turn = angles(layout, self.channels, self.config.rope) if self.config.rope else None
        bounds = layout.interval(*self.reach)
        return Attending(*self._queries_and_keys(x_BTD, turn), *bounds, self.scale, self.config.softcap)

    def _queries_and_keys(self, x_BTD, turn):
        """(q_BTHC, k_BTKC), normalised and rotated. turn: the angles, or None."""
        q_BTHC = self.q(x_BTD).unflatten(-1, (-1, self.channels))
        k_BTKC = self.k(x_BTD).unflatten(-1, (-1, self.channels))
        if self.config.qk_norm:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        return (rotary(q_BTHC, *turn), rotary(k_BTKC, *turn)) if turn else (q_BTHC, k_BTKC)

    def _attend(self, q_BTHC, k_BSKC, v_BSKC, layout, whole):
        """Attention of the layout's tokens over keys that end with the tokens' own."""
        bounds = layout.interval(*self.reach, first=k_BSKC.shape[1] - q_BTHC.shape[1])
        softcap = self.config.softcap
        reach = layout.reach(*self.reach)
        return attend(q_BTHC, k_BSKC, v_BSKC, *bounds, self.scale, reach, whole, softcap, layout.memo)

    def _attend_to_ring(self, q_B1HC, layout, state):
        """Attention of one token per row over the used slots. The token itself is already written."""
        hidden_BS = layout.memo(("ring", state.seen, state.slots), lambda: state.hidden(layout))
        k_BKSC, v_BKSC = (x[:, :, : state.seen].to(q_B1HC.dtype) for x in (state.k_BKSC, state.v_BKSC))
        return ring(q_B1HC, k_BKSC, v_BKSC, self.scale, hidden_BS, self.config.softcap)
