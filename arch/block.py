"""One layer of a model: its sub-layers on the residual stream.

Shapes: B rows, T tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from arch import registry
from arch.encoded import Encoded
from arch.kernels import products
from arch.layout import TokenLayout
from arch.model_spec import SUBLAYERS, BlockSpec
from arch.norm import RMSNorm
from arch.parameters import Context


class Sublayer(nn.Module):
    """A component on the residual stream, with a norm before it, after it, or both ("sandwich")."""

    def __init__(self, component: nn.Module, placement: str, context: Context):
        super().__init__()
        self.component: Any = component  # a `Mixer`, a `Cross` or an `FFN` of `arch.contracts`
        self.shipped = type(component).__module__.partition(".")[0] == "arch"
        self.before = RMSNorm(context.dim, context.norm_eps) if placement in ("before", "sandwich") else nn.Identity()
        self.after = RMSNorm(context.dim, context.norm_eps) if placement in ("after", "sandwich") else nn.Identity()

    @property
    def sees_others(self) -> bool:
        """Whether the component gets the layout and a state. An ffn works on each token alone; a cross keeps no state."""
        return self.component.kind == "mixer"

    def forward(self, x_BTD: Tensor, layout: TokenLayout, state: Any = None, encoded: Encoded | None = None) -> tuple[Tensor, Any]:
        """(x + after(component(before(x))), the state after these tokens). encoded: what a cross, or a mixer, reads of a source."""
        y_BTD = self.before(x_BTD)
        if self.component.kind == "cross":
            y_BTD = self._computed(y_BTD, layout, encoded)
        elif self.sees_others:
            reading = (encoded,) if encoded is not None and getattr(self.component, "reads_encoder", False) else ()
            returned = self._computed(y_BTD, layout, state, *reading)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise TypeError(f"gives {type(returned).__name__} instead of (output, state)")
            y_BTD, state = returned
        else:
            y_BTD = self._computed(y_BTD)
        if y_BTD.shape != x_BTD.shape:  # it might be broadcast
            raise TypeError(f"gives shape {tuple(y_BTD.shape)} for an input of shape {tuple(x_BTD.shape)}")
        return x_BTD + self.after(y_BTD), state

    def _computed(self, *given: Any) -> Any:
        """What the component gives. A user's own need not know of bfloat16 beside float32 weights: autocast does, as on a GPU.

        What is decoded from a state is float32 (`Model.trunk`), and stays so.
        """
        if self.shipped or not products.is_casting() or given[0].dtype != torch.bfloat16:
            return self.component(*given)
        device, (x_BTD, *rest) = given[0].device.type, given
        if not torch.amp.is_autocast_available(device):  # the meta device, on which costs are measured
            given = (x_BTD.float(), *rest)
            device = "cpu"
        with torch.autocast(device, torch.bfloat16):
            returned = self.component(*given)
        y, *rest = returned if isinstance(returned, tuple) else (returned,)
        y = y.to(x_BTD.dtype) if isinstance(y, Tensor) else y
        return (y, *rest) if isinstance(returned, tuple) else y


class Block(nn.Module):
    """One layer: a `Sublayer` per kind, such as `self.mixer`; None where the block has none of that kind."""

    def __init__(self, spec: BlockSpec, context: Context):
        super().__init__()
        for kind in SUBLAYERS:
            setattr(self, kind, None)
        for kind, component in spec.sublayers().items():
            setattr(self, kind, Sublayer(registry.build(kind, component, context), spec.norm, context))

    def forward(self, x_BTD: Tensor, layout: TokenLayout, state: Any = None, encoded: Encoded | None = None) -> tuple[Tensor, Any]:
        """(x_BTD after this layer, the mixer's new state or None). encoded: a source, in the decoder of a model of two stacks."""
        reading = () if encoded is None else (encoded,)
        for sublayer in self.children():
            x_BTD, state = sublayer(x_BTD, layout, state, *reading)
        return x_BTD, state
