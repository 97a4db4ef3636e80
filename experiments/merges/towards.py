"""A way from the start towards trained weights: WARP's last stage, linear interpolation towards the initialisation."""

from __future__ import annotations

from torch import Tensor

from arch.errors import SpecError
from arch.registry import merge
from arch.spec import Fraction, Spec


@merge
class Towards:
    """start + amount (w - start): 0 is the start, 1 the trained weights (WARP, Ramé et al. 2024, arXiv 2406.16768, stage 3).

    Between them lie models that trade reward against distance from the start.
    """

    class Config(Spec):
        """amount: how far to go, from 0 (the start) to 1."""

        amount: Fraction = 0.5

    def __init__(self, config: Config):
        self.config = config

    @classmethod
    def check(cls, config: Config, count: int, has_start: bool) -> None:
        """Raises SpecError for other than one run, and without a start."""
        if count != 1:
            raise SpecError(f"expected one run, got {count}; merge several first", ("of",))
        if not has_start:
            raise SpecError("it goes from a `start` towards trained weights; name it", ("merge",))

    def __call__(self, name: str, several: list[Tensor], start: Tensor | None) -> Tensor:
        """The parameter on the way."""
        assert start is not None
        return start + self.config.amount * (several[0] - start)
