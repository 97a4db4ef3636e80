"""Spherical interpolation of what several runs learned since their common start (WARP, Ramé et al. 2024, arXiv 2406.16768)."""

from __future__ import annotations

import math

from torch import Tensor

from arch.errors import SpecError
from arch.registry import merge
from arch.spec import Positive, Spec

# Below this angle (radians), or this far from opposite, sin is too small to divide by.
SMALL = 1e-6


@merge
class Slerp:
    """The directions from the start, turned into each other on a sphere, parameter by parameter, so that none gets shorter.

    With d = w - start and the angle a between two directions, slerp(d1, d2, t) = (sin((1 - t) a) d1 + sin(t a) d2) / sin a. A mean
    of directions is shorter than they are, and so undoes some of the learning; this is not. Of M runs the first two are merged with
    t = 1/2, the result with the third with t = 1/3, and so on, so that each has the same part. The order matters a little.
    """

    class Config(Spec):
        """amount: how far to go from the start to the merged weights; 1 is all the way. WARP's last stage goes a part of it."""

        amount: Positive = 1.0

    def __init__(self, config: Config):
        self.config = config

    @classmethod
    def check(cls, config: Config, count: int, has_start: bool) -> None:
        """Raises SpecError for fewer than two runs, and without a start."""
        if count < 2:
            raise SpecError("slerp turns one direction into another; expected at least two runs", ("of",))
        if not has_start:
            raise SpecError("slerp needs the `start` that the runs began from", ("merge",))

    def __call__(self, name: str, several: list[Tensor], start: Tensor | None) -> Tensor:
        """The merged parameter. Raises ValueError where two directions are opposite: nothing lies between them."""
        assert start is not None
        turned, *others = (each - start for each in several)
        for number, other in enumerate(others, 2):
            turned = between(turned, other, 1 / number)
        return start + self.config.amount * turned


def between(first: Tensor, second: Tensor, part: float) -> Tensor:
    """slerp(first, second, part) of two directions. One that is 0, or the same as the other, is interpolated in a line."""
    lengths = float(first.norm() * second.norm())
    cosine = float((first * second).sum()) / lengths if lengths else 1.0
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if math.pi - angle < SMALL:
        raise ValueError("two runs moved in opposite directions from the start; nothing lies between them on a sphere")
    if angle < SMALL:
        return (1 - part) * first + part * second
    return (math.sin((1 - part) * angle) * first + math.sin(part * angle) * second) / math.sin(angle)
