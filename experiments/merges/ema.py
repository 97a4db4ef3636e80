"""An exponential moving average over runs in their order, from their start on: WARP's first stage, over checkpoints."""

from __future__ import annotations

from torch import Tensor

from arch.errors import SpecError
from arch.registry import merge
from arch.spec import Fraction, Spec


@merge
class Ema:
    """m <- (1 - rate) m + rate w for each run in the order of `of`, with m = start at first.

    WARP (Ramé et al. 2024, arXiv 2406.16768) keeps such an average of the policy while it trains, as the anchor of the KL
    term; objectives that sample have it as their `anchor`. This rule is the same average over finished runs.
    """

    class Config(Spec):
        """rate: the part of each run; small ones remember longer."""

        rate: Fraction = 0.5

    def __init__(self, config: Config):
        self.config = config

    @classmethod
    def check(cls, config: Config, count: int, has_start: bool) -> None:
        """Raises SpecError without a start."""
        if not has_start:
            raise SpecError("an average that moves needs the `start` where it begins", ("merge",))

    def __call__(self, name: str, several: list[Tensor], start: Tensor | None) -> Tensor:
        """The average of a parameter after the last run."""
        assert start is not None
        for each in several:
            start = start + self.config.rate * (each - start)
        return start
