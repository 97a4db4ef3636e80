"""Sums in decimal digits, with answers that can be checked."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from arch.registry import source
from arch.spec import Count, List
from experiments.data import exchanges
from experiments.data.exchange import Exchange, ExchangeOptions, drawn
from experiments.data.exchanges import Exchanges
from experiments.spec import DataSpec

OPERATIONS = {"add": "+", "subtract": "-", "multiply": "*"}
LEARNED_FROM = 2000


@source
class Arithmetic:
    """Prompts such as `27+5=`, and the result as the answer. Each belongs to one split, together with the one turned round."""

    class Config(ExchangeOptions):
        """digits: of the longest number. operations: each prompt draws one."""

        digits: Annotated[Count, Field(le=9)] = 2
        operations: Annotated[List[Literal["add", "subtract", "multiply"]], Field(min_length=1)] = ("add",)

        @classmethod
        def examples(cls):
            return [cls(), cls(digits=1, operations=("add", "multiply"), template="plain")]

    tokenizes = answers = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Exchanges:
        """Raises DataError where a row cannot hold the longest prompt, or a tokenizer has no turns."""
        return exchanges.prepare(self, "arithmetic", self.config, data)

    def exchange(self, split: str, number: int) -> Exchange:
        """An endless list of prompts for each split."""
        return drawn(self._draw, split, number)

    def longest(self) -> list[Exchange]:
        """Of each operation, both numbers as long as they may be; a difference of them has a sign."""
        largest = 10**self.config.digits - 1
        ends = (largest, largest), (10 ** (self.config.digits - 1), largest)
        return [self._asked(*numbers, name) for name in self.config.operations for numbers in ends]

    def learned_from(self) -> list[str]:
        """Some prompts with their answers."""
        return [each.prompt + each.answer for each in (self.exchange("train", number) for number in range(LEARNED_FROM))]

    def count(self, split: str) -> None:
        """There is no end."""

    def _draw(self, random: np.random.Generator) -> tuple[Exchange, str]:
        a, b = (int(random.integers(10 ** int(random.integers(1, self.config.digits + 1)))) for _ in range(2))
        name = self.config.operations[int(random.integers(len(self.config.operations)))]
        numbers = (a, b) if name == "subtract" else sorted((a, b))
        return self._asked(a, b, name), f"{name} {numbers[0]} {numbers[1]}"

    def _asked(self, a, b, name):
        result = {"add": a + b, "subtract": a - b, "multiply": a * b}[name]
        return Exchange(f"{a}{OPERATIONS[name]}{b}=", str(result))
