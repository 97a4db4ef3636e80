"""The mean of several runs' weights: a soup (Wortsman et al. 2022), and how WARM averages reward models (Ramé et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from arch.errors import SpecError
from arch.registry import merge
from arch.spec import Fraction, List, Spec


@merge
class Mean:
    """The mean of the parameters, or a weighted one. A list in `init_from` means the plain mean."""

    class Config(Spec):
        """weights: of each run, in the order of `of`, adding up to 1; by default all the same."""

        weights: List[Fraction] | None = None

    def __init__(self, config: Config):
        self.config = config

    @classmethod
    def check(cls, config: Config, count: int, has_start: bool) -> None:
        """Raises SpecError for weights that are not one for each run, or do not add up to 1; and for a start."""
        if has_start:
            raise SpecError("a mean does not depend on where its runs started; leave it out", ("start",))
        if config.weights is None:
            return
        if len(config.weights) != count:
            raise SpecError(f"expected {count}, one for each run, got {len(config.weights)}", ("merge", "weights"))
        if abs(sum(config.weights) - 1) > 1e-6:
            raise SpecError(f"expected numbers that add up to 1, got {sum(config.weights):g}", ("merge", "weights"))

    def __call__(self, name: str, several: list[Tensor], start: Tensor | None) -> Tensor:
        """The mean of a parameter."""
        if self.config.weights is None:
            return sum(several[1:], several[0]) / len(several)
        return sum((weight * each for weight, each in zip(self.config.weights, several, strict=True)), several[0] * 0)
