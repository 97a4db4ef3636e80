"""Griffin's recurrent block with the real-gated linear recurrent unit (Griffin, sections 2.3 and 2.4).

Shapes: B rows, T tokens, D model width, R recurrent width, J taps of the convolution.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from arch.contracts import Decaying
from arch.convolution import CausalConvolution
from arch.kernels import rg_lru as kernel
from arch.kernels.glu import glu
from arch.layout import TokenLayout
from arch.linear import BlockDiagonalLinear, Linear
from arch.parameters import Context, parameter
from arch.registry import mixer
from arch.spec import Count, Positive, Spec


@dataclass(frozen=True)
class RecurrentState:
    """The recurrence's state h_BR, always float32, and the convolution's last J - 1 inputs, tail_BJR."""

    h_BR: torch.Tensor
    tail_BJR: torch.Tensor


@mixer
class RGLRU(nn.Module):
    """W_o (RGLRU(conv(W_x x)) * gelu(W_y x)), where with gates r, i = sigmoid(block-diagonal maps of u):

        a_t = sigmoid(L)^(c r_t),   h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)       (Griffin, equations 1 to 4)

    At the first token of a document, a_t is 0 and the square root is 1. Decay and state are float32.
    A state may be written in place: do not use the state passed in again.
    """

    class Config(Spec):
        """width: R, by default D. blocks: diagonal blocks of each gate's map. taps: J, of the convolution; with 1 it sees no other
        token. exponent: c, of the decay. bias: whether all maps have one.

        decay_init: the initialisation of L. `paper` draws sigmoid(L)^c uniformly from [0.9, 0.999] (Griffin, section
        2.4). `reference` draws sigmoid(L)^2 uniformly from [0.9^2, 0.999^2], as the released code does; this is a
        different model at step 0.
        """

        width: Count | None = None
        blocks: Count = 1
        taps: Annotated[int, Field(ge=1, le=256)] = 4
        exponent: Positive = 8.0
        decay_init: Literal["paper", "reference"] = "paper"
        bias: bool = True

        def at_width(self, dim: int) -> "RGLRU.Config":
            """The same with `width` written out, in a model of width `dim`."""
            return self.model_copy(update={"width": self.width or dim})

        @classmethod
        def examples(cls):
            """Valid instances for the test battery."""
            return [cls(blocks=4), cls(width=24, blocks=2, taps=3, decay_init="reference", bias=False), cls(taps=1)]

    causal = True
    state_size = "constant"

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        self.width = config.width or context.dim
        self.x = Linear(context.dim, self.width, context, bias=config.bias)
        self.y = Linear(context.dim, self.width, context, bias=config.bias)
        self.o = Linear(self.width, context.dim, context, kind="output", bias=config.bias)
        self.conv = CausalConvolution(self.width, config.taps)
        self.recurrence_gate = BlockDiagonalLinear(self.width, config.blocks, context)
        self.input_gate = BlockDiagonalLinear(self.width, config.blocks, context)
        self.decay = parameter((self.width,), "vector", DECAY_INITS[config.decay_init](config.exponent), recurrent=True)

    def init_state(self, batch: int, capacity: int, dtype: Any = torch.float32, device: Any = None) -> RecurrentState:
        """An empty state; its size does not depend on `capacity`."""
        return RecurrentState(
            torch.zeros(batch, self.width, dtype=torch.float32, device=device),
            self.conv.empty(batch, dtype, device),
        )

    def mixing_flops(self, layout: TokenLayout) -> int:
        """FLOPs of the scan: a multiply and an add per channel and token (the element-wise convolution not counted)."""
        return 2 * self.width * layout.doc_BT.numel()

    def forward(self, x_BTD: Tensor, layout: TokenLayout, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        if state is None:
            state = self.init_state(*layout.shape, x_BTD.dtype, x_BTD.device)
        u_BTR, tail_BJR = self.conv(self.x(x_BTD), layout, state.tail_BJR)
        h_BTR, last_BR = self._recurrence(u_BTR, layout, state.h_BR)
        return self.o(glu(self.y(x_BTD), h_BTR.to(x_BTD.dtype))), RecurrentState(last_BR, tail_BJR)

    def slope_R(self) -> Tensor:
        """-c softplus(-L) = log sigmoid(L)^c: the log of the decay at r = 1."""
        return -self.config.exponent * F.softplus(-self.decay.float())

    def decaying(self, x_BTD: Tensor, layout: TokenLayout) -> Decaying:
        """log a_t of these tokens; log_a_R is that of r = 1."""
        tail_BJR = self.init_state(*layout.shape, x_BTD.dtype, x_BTD.device).tail_BJR
        u_BTR, _ = self.conv(self.x(x_BTD), layout, tail_BJR)
        slope_R = self.slope_R()
        return Decaying(slope_R * torch.sigmoid(self.recurrence_gate(u_BTR).float()), slope_R)

    def _recurrence(self, u_BTR, layout, h0_BR):
        rho_BTR, iota_BTR = self.recurrence_gate(u_BTR), self.input_gate(u_BTR)
        return kernel.rg_lru(rho_BTR, iota_BTR, u_BTR, self.slope_R(), layout.reset_BT, h0_BR)


def _decay_paper(exponent):
    def draw(tensor, generator):
        tensor.uniform_(0.9, 0.999, generator=generator).pow_(1 / exponent).logit_()

    return draw


def _decay_reference(exponent):
    def draw(tensor, generator):
        tensor.uniform_(0.9**2, 0.999**2, generator=generator).sqrt_().logit_()

    return draw


DECAY_INITS = {"paper": _decay_paper, "reference": _decay_reference}
