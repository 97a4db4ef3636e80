"""What several components share: parameters that know their role and first values, linear maps, RMSNorm, rotary.

Shapes: B rows, T tokens, D width, H heads, C channels a head.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from arch.spec import InitSpec


@dataclass(frozen=True)
class Context:
    """Where in a model a component stands: model width, index of its layer, number of layers, how to draw weights."""

    dim: int
    layer: int = 0
    layers: int = 1
    norm_eps: float = 1e-6
    init: InitSpec = InitSpec()


ROLES = ("embedding", "matrix", "vector", "recurrence")


def parameter(shape, role, draw):
    """An empty parameter with its role (for optimizers, quantisers) and `draw(tensor, generator)`, its first values."""
    assert role in ROLES, role
    made = nn.Parameter(torch.empty(shape))
    made.role, made.draw = role, draw
    return made


def constant(value):
    """First values that are all `value`."""
    return lambda tensor, generator: tensor.fill_(value)


def normal(std):
    """First values from N(0, std^2)."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def drawn(initialiser, fan_in, layers):
    """First values as an `Initialiser` of the spec says, for a map with `fan_in` inputs in a model of `layers`."""
    variance = {"fan_in": 1 / fan_in, "depth_scaled": 2 / layers / fan_in}
    return normal(initialiser.std if initialiser.type == "normal" else math.sqrt(variance[initialiser.type]))


def fan_in(inputs, stack, context):
    """The inputs that count for the first values of one of `stack` matrices (see `InitSpec.stacked`)."""
    return inputs * (stack if context.init.stacked == "jax" else 1)


@torch.no_grad()
def initialise(model, seed):
    """Draw every parameter of `model` in place.

    A value is a pure function of (seed, the parameter's name, its shape), so that models which share a parameter
    start from the same values in it (common random numbers).
    """
    for name, weight in model.named_parameters():
        key = f"{seed}/{name}/{tuple(weight.shape)}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
        value = torch.empty(weight.shape, dtype=torch.float32)
        weight.draw(value, generator)
        weight.copy_(value)


class Linear(nn.Module):
    """y = x W^T + b. `kind`: `matrix`, or `output` for a map that writes into the residual stream. `stack`: of how many
    matrices that the reference Griffin code stores as one this is one (see `InitSpec.stacked`)."""

    def __init__(self, inputs, outputs, context, kind="matrix", bias=False, stack=1):
        super().__init__()
        draw = drawn(getattr(context.init, kind), fan_in(inputs, stack, context), context.layers)
        self.weight = parameter((outputs, inputs), "matrix", draw)
        self.bias = parameter((outputs,), "vector", constant(0.0)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class BlockDiagonalLinear(nn.Module):
    """y = x W + b with W of `blocks` equal square blocks on the diagonal (Griffin, section 4.1); part of a recurrence."""

    def __init__(self, width, blocks, context):
        super().__init__()
        if width % blocks:
            raise ValueError(f"blocks: {blocks} does not divide width = {width}")
        each = width // blocks
        draw = normal(1 / math.sqrt(fan_in(each, blocks, context)))
        self.weight = parameter((blocks, each, each), "recurrence", draw)
        self.bias = parameter((blocks, each), "recurrence", constant(0.0))

    def forward(self, x_BTR):
        rows, blocks = len(x_BTR), len(self.weight)
        x_NXr = rearrange(x_BTR, "b t (n r) -> n (b t) r", n=blocks)
        y_NXr = torch.baddbmm(self.bias[:, None], x_NXr, self.weight)
        return rearrange(y_NXr, "n (b t) r -> b t (n r)", b=rows)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (1 + w) in float32, cast last; w starts at 0 (Gemma 2 and 3, Griffin)."""

    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.weight = parameter((width,), "vector", constant(0.0))

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), 1 + self.weight.float(), self.eps).to(x.dtype)


def rotary(x_BTHC, layout, rope):
    """Rotate the first `rope.fraction` of each head's channels, split in halves that form the pairs.

    The angle of pair i at position p is p * theta^(-2i / width) / scale, computed in float32.
    """
    width = int(x_BTHC.shape[-1] * rope.fraction)
    key = ("rotary", width, rope.theta, rope.scale)
    cos_BTc, sin_BTc = layout.memo(key, lambda: _angles(layout.pos_BT, width, rope))
    turned, kept = x_BTHC[..., :width].float(), x_BTHC[..., width:]
    first, second = turned.chunk(2, dim=-1)
    cos, sin = cos_BTc[:, :, None], sin_BTc[:, :, None]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTHC.dtype)
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


def _angles(pos_BT, width, rope):
    i_c = torch.arange(0, width, 2, dtype=torch.float32, device=pos_BT.device)
    angle_BTc = pos_BT[..., None].float() * (rope.theta ** (-i_c / width) / rope.scale)
    return angle_BTc.cos(), angle_BTc.sin()
