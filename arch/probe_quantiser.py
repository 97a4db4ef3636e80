"""The battery of a quantiser: that a model computes with exactly what is packed, in as many bytes as it says.

Shapes: N rows of a matrix, D inputs of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arch import registry
from arch.probe import Broken, Point, Subject

ROWS = 24
# The least widths that are tried: what a format says it takes, times these.
MULTIPLES = (1, 3)
FLOATS = (torch.bfloat16, torch.float16)


def subject(kind: str, resolved: dict[str, Any], device: str = "cpu") -> Subject:
    """The Subject of a resolved quantiser. Raises Broken for a method that is missing, and a `multiple` that is no number."""
    quantiser: Any = registry.build(kind, resolved)
    for name in ("bytes", "pack", "unpack", "rounded", "clipped"):
        if not callable(getattr(quantiser, name, None)):
            raise Broken(f"has no method `{name}`")
    multiple = getattr(quantiser, "multiple", None)
    if type(multiple) is not int or multiple < 1:
        raise Broken(f"has `multiple` = {multiple!r}, expected a whole number of at least 1: of what a width must be a multiple")
    return Subject(kind, resolved["type"], quantiser, multiple, (), device=device)


def matrices(it: Subject) -> list[Tensor]:
    """Random matrices (N, D) of each width to try; rows of zeros, of one value, of ties, of tiny and of huge values among them."""
    found = []
    for times in MULTIPLES:
        width = it.dim * times if it.dim > 1 else 16 * times + 1
        weight = 0.02 * torch.randn(ROWS, width, generator=torch.Generator().manual_seed(width))
        weight[0], weight[1], weight[2] = 0.0, 1.0, -1.0
        weight[3] *= 1e-9
        weight[4] *= 1e6
        weight[5] = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
        found.append(weight.to(it.device))
    return found


def rounded(it: Subject, weight: Tensor) -> Tensor:
    """The values that a model computes with. Raises Broken for anything but a float32 matrix of the weights' shape."""
    return _matrix(it.module.rounded(weight), weight, "`rounded`")


def _matrix(values, weight, what):
    if not isinstance(values, Tensor):
        raise Broken(f"gives {type(values).__name__} instead of a tensor from {what}")
    if values.shape != weight.shape:
        raise Broken(f"gives shape {tuple(values.shape)} for weights of shape {tuple(weight.shape)} from {what}")
    if values.dtype != torch.float32:
        raise Broken(f"gives {str(values.dtype).removeprefix('torch.')} from {what}; expected float32")
    return values


def packs_what_it_computes_with(it: Subject) -> None:
    for weight in matrices(it):
        packed = it.module.pack(weight)
        if not isinstance(packed, dict) or not all(isinstance(each, Tensor) for each in packed.values()):
            raise Broken(f"gives {type(packed).__name__} from `pack`; expected a dict of tensors")
        values = _matrix(it.module.unpack(packed, weight.shape[1]), weight, "`unpack`")
        own = rounded(it, weight)
        if (wrong := (values != own) & ~(values.isnan() & own.isnan())).any():
            row, column = torch.nonzero(wrong)[0].tolist()
            raise Broken(f"computes with another value than it packs, at row {row} and column {column} of {tuple(weight.shape)}")


def packs_as_many_bytes_as_it_says(it: Subject) -> None:
    for weight in matrices(it):
        says, has = it.module.bytes(*weight.shape), sum(each.nbytes for each in it.module.pack(weight).values())
        if says != has:
            raise Broken(f"says that {' x '.join(map(str, weight.shape))} weights take {says:,} bytes, but packs {has:,}")


def is_finite(it: Subject) -> None:
    names = ("zeros", "ones", "minus ones", "tiny values", "huge values", "ties")
    for weight in matrices(it):
        bad = ~rounded(it, weight).isfinite().all(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise Broken(f"gives values that are not finite for a row of {names[row] if row < len(names) else 'small values'}")


def is_nearer_than_zero(it: Subject) -> None:
    for weight in matrices(it):
        small = weight[6:]
        far = float((rounded(it, weight)[6:] - small).norm() / small.norm())
        if not far < 1:
            raise Broken(f"is as far from the weights as zeros would be ({far:.2f} of their norm)")


def keeps_rows_apart(it: Subject) -> None:
    for weight in matrices(it):
        if not torch.equal(rounded(it, weight[7:9]), rounded(it, weight)[7:9]):
            raise Broken("must keep rows apart, but a row is rounded otherwise among other rows")


def leaves_the_weights_alone(it: Subject) -> None:
    for weight in matrices(it):
        before, first = weight.clone(), rounded(it, weight)
        it.module.pack(weight)
        it.module.clipped(weight)
        if not torch.equal(weight, before):
            raise Broken("writes into the weights that it is given")
        if not torch.equal(rounded(it, weight), first):
            raise Broken("gives other values for the same weights: it keeps something, or draws")


def reads_other_floats(it: Subject) -> None:
    for weight in matrices(it):
        for dtype in FLOATS:
            given = weight[5:].to(dtype)
            if not torch.equal(rounded(it, given), rounded(it, given.float())):
                raise Broken(f"rounds weights of {str(dtype).removeprefix('torch.')} otherwise than the same values in float32")


def says_what_it_clips(it: Subject) -> None:
    for weight in matrices(it):
        clipped = it.module.clipped(weight)
        if clipped is not None and (
            not isinstance(clipped, Tensor) or clipped.dtype != torch.bool or clipped.shape != weight.shape
        ):
            raise Broken("gives something else from `clipped` than None or bools of the weights' shape")


QUANTISER = (
    Point("packs what a model computes with, bit for bit", packs_what_it_computes_with),
    Point("packs as many bytes as it says", packs_as_many_bytes_as_it_says),
    Point("gives finite values", is_finite),
    Point("is nearer to the weights than zeros", is_nearer_than_zero),
    Point("keeps rows apart", keeps_rows_apart),
    Point("leaves the weights as they are, and keeps nothing", leaves_the_weights_alone),
    Point("reads weights of other types as float32", reads_other_floats),
    Point("says which weights it clips", says_what_it_clips),
)
