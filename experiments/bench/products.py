"""The matrix products of a step, recorded while it runs and then run alone: a lower bound on the step's time.

Products are recorded below autograd, so those of the forward and the backward pass are included, with the shapes,
strides and dtypes that the step used.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from arch.kernels import paths

aten = torch.ops.aten
# Positions of the two factors among the operands.
FACTORS = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.addmm_: (1, 2),
    aten.baddbmm: (1, 2),
    aten.baddbmm_: (1, 2),
}


@dataclass(frozen=True)
class Operand:
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Product:
    """One matrix product, with Operands in place of tensors."""

    function: Any
    args: tuple
    kwargs: tuple = ()

    @property
    def flops(self):
        """FLOPs, two per multiply-add."""
        left, right = (self.args[i] for i in FACTORS[self.function._overloadpacket])
        return 2 * math.prod(left.shape) * right.shape[-1]


@dataclass
class Noted:
    """The products of a step in order, and the operations that may contain more products.

    opaque: {name: calls} of fused attention and custom operations. Their products are not in the product floor.
    """

    products: list[Product] = field(default_factory=list)
    opaque: Counter = field(default_factory=Counter)

    @property
    def flops(self):
        """FLOPs of all products."""
        return sum(product.flops for product in self.products)


class _Note(TorchDispatchMode):
    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._overloadpacket in FACTORS:
            described = tree_map(_operand, kwargs)
            self.noted.products.append(Product(function, tuple(map(_operand, args)), tuple(described.items())))
        elif function.namespace not in ("aten", "prim", "prims") or "scaled_dot_product" in function.name():
            self.noted.opaque[function.name()] += 1
        return function(*args, **kwargs)


def noted(step):
    """Run `step()` once and return its Noted products.

    Torch's paths replace Triton kernels in this call, because FlexAttention refuses to run under a dispatch mode. The
    product floor does not depend on which kernel is compared with it.
    """
    noted_products = Noted()
    with paths.without_triton(), _Note(noted_products):
        step()
    return noted_products


def alone(products, device):
    """A function that runs the products, in the same order, on new random operands.

    Operands with equal shape, stride and dtype share one tensor. In-place products write into their operand, as in the
    step.
    """
    operands = {}

    def real(value):
        if not isinstance(value, Operand):
            return value
        if value not in operands:
            operands[value] = _filled(value, device)
        return operands[value]

    calls = [(each.function, tuple(map(real, each.args)), {name: real(value) for name, value in each.kwargs}) for each in products]

    @torch.no_grad()
    def run():
        for function, args, kwargs in calls:
            function(*args, **kwargs)

    return run


def _operand(value):
    if isinstance(value, torch.Tensor):
        return Operand(tuple(value.shape), tuple(value.stride()), value.dtype)
    return value


def _filled(operand, device):
    reach = 1 + sum((size - 1) * stride for size, stride in zip(operand.shape, operand.stride, strict=True))
    memory = torch.randn(max(1, reach), device=device).to(operand.dtype)
    return memory.as_strided(operand.shape, operand.stride)
