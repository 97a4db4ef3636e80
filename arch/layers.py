"""Shared by components: parameters with a kind and an initialisation, linear maps, RMSNorm, rotary positions.

Shapes: B rows, T tokens, D width, H heads, C channels per head, c = pairs of rotated channels.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.autograd.function import once_differentiable

from arch.kernels import decode, rms_norm
from arch.spec import InitSpec


@dataclass(frozen=True)
class Context:
    """A component's place in the model: model width, layer index, number of layers, norm epsilon, initialisation."""

    dim: int
    layer: int = 0
    layers: int = 1
    norm_eps: float = 1e-6
    init: InitSpec = InitSpec()  # noqa: RUF009  frozen


KINDS = ("embedding", "matrix", "vector")


def parameter(shape, kind, draw, recurrent=False):
    """An empty parameter with its initialiser `draw(tensor, generator)` and two facts, for costs, optimizers, quantisers.

    kind: what it is. An `embedding` is looked up; a `matrix`, or a stack of them, maps every token; a `vector` acts
    channel by channel. recurrent: whether it decides how a state decays or what enters it. Such weights are trained
    with more care, whatever their kind: AdamW does not decay them. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a parameter is one of {', '.join(KINDS)}, not {kind!r} (`recurrent=True` is a fact beside its kind)")
    made = nn.Parameter(torch.empty(shape))
    made.kind, made.recurrent, made.draw = kind, recurrent, draw
    return made


def constant(value):
    """An initialiser that sets every value to `value`."""
    return lambda tensor, generator: tensor.fill_(value)


def normal(std):
    """An initialiser that draws from N(0, std^2)."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def drawn(initialiser, fan_in, layers):
    """The function that an `Initialiser` describes, for a map with `fan_in` inputs in a model of `layers` layers."""
    variance = {"fan_in": 1 / fan_in, "depth_scaled": 2 / layers / fan_in}
    return normal(initialiser.std if initialiser.type == "normal" else math.sqrt(variance[initialiser.type]))


def fan_in(inputs, stack, context):
    """The fan-in with which one of `stack` matrices is initialised (see `InitSpec.stacked`)."""
    return inputs * (stack if context.init.stacked == "jax" else 1)


@torch.no_grad()
def initialise(model, seed):
    """Initialise every parameter of `model` in place.

    The values are a pure function of (seed, parameter name, shape). Two models that share a parameter therefore start
    from the same values (common random numbers).
    """
    for name, weight in model.named_parameters():
        key = f"{seed}/{name}/{tuple(weight.shape)}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
        value = torch.empty(weight.shape, dtype=torch.float32)
        weight.draw(value, generator)
        weight.copy_(value)


class Linear(nn.Module):
    """y = x W^T + b.

    kind: `matrix`, or `output` for a map that writes into the residual stream. stack: the number of matrices, this one
    included, that the reference Griffin code stores as one tensor (see `InitSpec.stacked`).
    """

    def __init__(self, inputs, outputs, context, kind="matrix", bias=False, stack=1):
        super().__init__()
        draw = drawn(getattr(context.init, kind), fan_in(inputs, stack, context), context.layers)
        self.weight = parameter((outputs, inputs), "matrix", draw)
        self.bias = parameter((outputs,), "vector", constant(0.0)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def plain(modules, names):
    """[(weight, bias), ...] of the named modules; None unless each is exactly a `Linear` without hooks.

    modules: a module's `_modules`. A look-up there takes a tenth of the time of an attribute access.
    """
    maps = []
    for name in names:
        linear = modules[name]
        if type(linear) is not Linear or linear._forward_hooks or linear._forward_pre_hooks:
            return None
        maps.append((linear._parameters["weight"], linear._parameters.get("bias")))
    return maps


class BlockDiagonalLinear(nn.Module):
    """y = x W + b, where W has `blocks` equal square blocks on its diagonal (Griffin, section 4.1)."""

    def __init__(self, width, blocks, context):
        super().__init__()
        if width % blocks:
            raise ValueError(f"blocks: {blocks} does not divide width = {width}")
        each = width // blocks
        draw = normal(1 / math.sqrt(fan_in(each, blocks, context)))
        self.weight = parameter((blocks, each, each), "matrix", draw, recurrent=True)
        self.bias = parameter((blocks, each), "vector", constant(0.0), recurrent=True)

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
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        # For a single token, the overhead of each torch call matters.
        y = decode.norm(x, self.weight, self.eps) if x.ndim == 3 and x.shape[1] == 1 else None
        return _normalised(x, self.weight, self.eps)[0] if y is None else y


def plain_norm(norm):
    """(weight, eps) of an `RMSNorm`, (None, 0.0) of an `Identity`; None for other modules and for one with hooks."""
    if norm._forward_hooks or norm._forward_pre_hooks:
        return None
    if type(norm) is RMSNorm:
        return norm._parameters["weight"], norm.eps
    return (None, 0.0) if type(norm) is nn.Identity else None


def rms_norm_reference(x, weight, eps):
    """RMSNorm in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), (x.shape[-1],), 1 + weight.to(wide), eps).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with its own gradient, in fewer passes over memory. It saves x and one number per token.

    With r = (mean(x^2) + eps)^-1/2, g = 1 + w, and a the gradient of y:
    dx = r a g - x r^3 mean(a g x), dw = sum over tokens of a x r.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.compiled = rms_norm.compiled(x, weight)
        y, r = rms_norm.forward(ctx.compiled, x, weight, eps) if ctx.compiled else _normalised(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, r = ctx.saved_tensors
        if ctx.compiled and rms_norm.compiled(grad):
            return *rms_norm.backward(ctx.compiled, grad, x, weight, r), None
        x_ND, a_ND, r_N1 = x.flatten(0, -2).to(r.dtype), grad.flatten(0, -2).to(r.dtype), r.view(-1, 1)
        g_D = 1 + weight.to(r.dtype)
        ax_ND = a_ND * x_ND
        # Under autocast on CUDA, mv would round to autocast's type. With `out=` it does not.
        dw_D = torch.mv(ax_ND.t(), r_N1[:, 0], out=torch.empty_like(g_D))
        pull_N1 = torch.mv(ax_ND, g_D, out=ax_ND.new_empty(len(ax_ND)))[:, None].mul_(r_N1.pow(3)).div_(x_ND.shape[1])
        dx_ND = torch.mul(a_ND, g_D, out=ax_ND).mul_(r_N1).addcmul_(x_ND, pull_N1, value=-1)
        return dx_ND.view(x.shape).to(x.dtype), dw_D.to(weight.dtype), None


def _normalised(x, weight, eps):
    """(y, r): the output of RMSNorm, and 1 / sqrt(mean(x^2) + eps) of each token."""
    wide = torch.promote_types(x.dtype, torch.float32)
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = x.to(wide) * r
    return torch.addcmul(y, y, weight.to(wide), out=y).to(x.dtype), r


def rotary(x_BTHC, cos_BT1C, sin_BT1c):
    """Rotate each head's first 2 c channels by `angles`; channel i < c forms a pair with channel c + i."""
    if torch.is_grad_enabled():
        return _Rotary.apply(x_BTHC, cos_BT1C, sin_BT1c)
    return _turned(x_BTHC, cos_BT1C, sin_BT1c, 1)


def angles(layout, channels, rope):
    """Cosine of every channel (B, T, 1, C), 1 for channels that are not rotated, and sine of the pairs (B, T, 1, c).

    B is 1 where all rows have the same positions.
    """

    def make():
        cos_BT1c, sin_BT1c = pairs(layout, channels, rope)
        still = channels - 2 * cos_BT1c.shape[-1]
        return F.pad(torch.cat([cos_BT1c, cos_BT1c], -1), (0, still), value=1.0), sin_BT1c

    return layout.memo(("rotary", channels, rope), make)


def pairs(layout, channels, rope):
    """Cosine and sine of the pairs (B, T, 1, c); B is 1 where all rows have the same positions.

    Only the first `width` = `rope.fraction` * channels channels are rotated. The angle of pair i at position p is
    p * theta^(-2i / width) / scale, in float32. rope: None for no rotation.
    """

    def make():
        width = int(channels * rope.fraction) if rope else 0
        angle_BT1c = layout.distinct_pos_BT[..., None, None].float() * _rates(width, rope, layout.pos_BT.device)
        return angle_BT1c.cos(), angle_BT1c.sin()

    return layout.memo(("pairs", channels, rope), make)


def _rates(width, rope, device):
    """Radians per position of every pair. Cached, because single-token decoding is sensitive to each torch call."""
    key = width, rope, device
    if key not in _KEPT_RATES:
        i_c = torch.arange(0, width, 2, dtype=torch.float32, device=device)
        rates_c = i_c if rope is None else rope.theta ** (-i_c / width) / rope.scale
        if type(rates_c) is not torch.Tensor or torch.compiler.is_compiling():
            return rates_c  # do not cache a placeholder of a tensor that is being traced
        _KEPT_RATES[key] = rates_c
    return _KEPT_RATES[key]


_KEPT_RATES = {}


class _Rotary(torch.autograd.Function):
    """(x, y) -> (x cos - y sin, y cos + x sin) for the pairs of `rotary`; the gradient rotates back."""

    @staticmethod
    def forward(ctx, x_BTHC, cos_BT1C, sin_BT1c):
        ctx.save_for_backward(cos_BT1C, sin_BT1c)
        return _turned(x_BTHC, cos_BT1C, sin_BT1c, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTHC):
        return _turned(grad_BTHC, *ctx.saved_tensors, -1), None, None


def _turned(x_BTHC, cos_BT1C, sin_BT1c, sign):
    half = sin_BT1c.shape[-1]
    wide = x_BTHC.to(torch.promote_types(x_BTHC.dtype, torch.float32))
    y_BTHC = wide * cos_BT1C
    y_BTHC[..., :half].addcmul_(wide[..., half : 2 * half], sin_BT1c, value=-sign)
    y_BTHC[..., half : 2 * half].addcmul_(wide[..., :half], sin_BT1c, value=sign)
    return y_BTHC.to(x_BTHC.dtype)
