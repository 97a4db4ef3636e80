"""SigLIP's image encoder, with the exit that Gemma 3 puts behind it (report, section 2.1).

Shapes: N images, S side of an image in pixels, P patches, p patches a side, L soft tokens of an image, D width of the encoder,
H heads, C channels per head, M width of the language model.
"""

import math
from dataclasses import replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from arch.kernels.attention import attend
from arch.layout import SpanRule, TokenLayout
from arch.linear import Linear
from arch.norm import RMSNorm
from arch.parameters import Context, constant, normal, parameter
from arch.registry import tower
from arch.spec import Count, Positive, Spec

COLOURS = 3
Token = Annotated[int, Field(ge=0)]  # the number of a token in the vocabulary


@tower
class Siglip(nn.Module):
    """Patches, learned positions, pre-norm layers that see every patch; average pooling to L tokens, RMSNorm, a linear map."""

    class Config(Spec):
        """image_size: S, of the square that every image is resized to. patch: the side of a patch in pixels.

        dim, layers, heads, hidden: D, number of layers, H, and the width inside of the MLP. norm_eps: of every norm here.
        tokens: L; a square number, whose root divides the patches a side. frozen: whether the encoder is left as it is while
        the norm and the map behind it are trained. spans: how the tokens of an image see each other (`TokenLayout.seeing`).
        placeholder: the token that is replaced by a soft token. start, end: the tokens around an image; null for none.
        """

        image_size: Count = 896
        patch: Count = 14
        dim: Count = 1152
        layers: Count = 27
        heads: Count = 16
        hidden: Count = 4304
        norm_eps: Positive = 1e-6
        tokens: Count = 256
        frozen: bool = True
        spans: SpanRule = "one_sided"
        placeholder: Token
        start: Token | None = None
        end: Token | None = None

        @model_validator(mode="after")
        def _divides(self):
            if self.image_size % self.patch:
                raise ValueError(f"patch: {self.patch} does not divide image_size = {self.image_size}")
            if self.dim % self.heads:
                raise ValueError(f"heads: {self.heads} does not divide dim = {self.dim}")
            side, patches = math.isqrt(self.tokens), self.image_size // self.patch
            if side**2 != self.tokens:
                raise ValueError(f"tokens: {self.tokens} is not the square of a whole number")
            if patches % side:
                what = f"{patches} patches a side are not a multiple of the {side} tokens a side"
                raise ValueError(f"tokens: {what}, so some would be left out")
            return self

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            small: Any = {"dim": 16, "layers": 2, "heads": 2, "hidden": 24, "placeholder": 5}
            return [cls(image_size=24, patch=4, tokens=9, **small), cls(image_size=8, patch=2, tokens=16, frozen=False, **small)]

    def __init__(self, config: Config, context: Context):
        super().__init__()
        self.config = config
        inside = replace(context, dim=config.dim, layers=config.layers, norm_eps=config.norm_eps)
        self.encoder = Encoder(config, inside)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.project = Linear(config.dim, context.dim, inside)
        if config.frozen:
            self.encoder.requires_grad_(False)

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        """Soft tokens (N, L, M) of images with values in [-1, 1], row by row from the upper left."""
        x_NPD = self.encoder(pixels_N3SS.to(self.norm.weight.dtype))
        return self.project(self.norm(pooled(x_NPD, self.config.tokens)))

    def image_flops(self) -> dict[str, int]:
        """FLOPs of one image, a multiply-add counted as 2: {encoder, projection}, of the forward pass."""
        config, patches = self.config, (self.config.image_size // self.config.patch) ** 2
        maps = sum(weight.numel() for weight in self.encoder.parameters() if getattr(weight, "kind", "") == "matrix")
        mixing = 4 * config.dim * patches**2 * config.layers  # q k^T and p v, of all pairs of patches
        return {"encoder": 2 * patches * maps + mixing, "projection": 2 * config.tokens * self.project.weight.numel()}


class Encoder(nn.Module):
    """The encoder alone: (N, 3, S, S) -> (N, P, D), after its last norm."""

    def __init__(self, config: Siglip.Config, context: Context):
        super().__init__()
        self.patch = config.patch
        self.embed = Linear(COLOURS * config.patch**2, config.dim, context, bias=True)
        self.positions = parameter(((config.image_size // config.patch) ** 2, config.dim), "vector", normal(config.dim**-0.5))
        self.layers: Any = nn.ModuleList(Layer(config, context) for _ in range(config.layers))
        self.norm = LayerNorm(config.dim, config.norm_eps)

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        # As a convolution with a stride of one patch sees it: the values of a patch are colour by colour, row by row.
        patches_NPV = F.unfold(pixels_N3SS, self.patch, stride=self.patch).transpose(1, 2)
        x_NPD = self.embed(patches_NPV) + self.positions
        for layer in self.layers:
            x_NPD = layer(x_NPD)
        return self.norm(x_NPD)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); every map has a bias, GELU is the tanh form."""

    def __init__(self, config: Siglip.Config, context: Context):
        super().__init__()
        self.heads = config.heads
        self.before_attention, self.before_mlp = (LayerNorm(config.dim, config.norm_eps) for _ in range(2))
        self.q, self.k, self.v = (Linear(config.dim, config.dim, context, bias=True) for _ in "qkv")
        self.o = Linear(config.dim, config.dim, context, kind="output", bias=True)
        self.up = Linear(config.dim, config.hidden, context, bias=True)
        self.down = Linear(config.hidden, config.dim, context, kind="output", bias=True)

    def forward(self, x_NPD: Tensor) -> Tensor:
        x_NPD = x_NPD + self._attention(self.before_attention(x_NPD))
        return x_NPD + self.down(F.gelu(self.up(self.before_mlp(x_NPD)), approximate="tanh"))

    def _attention(self, x_NPD):
        q_NPHC, k_NPHC, v_NPHC = (each(x_NPD).unflatten(-1, (self.heads, -1)) for each in (self.q, self.k, self.v))
        images, patches = x_NPD.shape[:2]
        everything = TokenLayout.whole(images, patches, x_NPD.device).interval(None, None)
        y_NPHC = attend(q_NPHC, k_NPHC, v_NPHC, *everything, q_NPHC.shape[-1] ** -0.5, whole=True)
        return self.o(y_NPHC.flatten(2))


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * w + b."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = parameter((width,), "vector", constant(1.0)), parameter((width,), "vector", constant(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def pooled(x_NPD: Tensor, tokens: int) -> Tensor:
    """The mean of each square of patches, (N, tokens, D); patches and tokens stand row by row."""
    side, patches = math.isqrt(tokens), math.isqrt(x_NPD.shape[1])
    each = patches // side
    x_NsksKD = x_NPD.reshape(len(x_NPD), side, each, side, each, x_NPD.shape[2])
    return x_NsksKD.mean((2, 4), dtype=torch.promote_types(x_NPD.dtype, torch.float32)).to(x_NPD.dtype).flatten(1, 2)
