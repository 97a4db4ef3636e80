"""Words to be repeated: the simplest answer that can be checked."""

from typing import Annotated

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Count
from experiments.data import exchanges
from experiments.data.exchange import Exchange, ExchangeOptions, drawn
from experiments.data.exchanges import Exchanges
from experiments.spec import DataSpec

LEARNED_FROM = 2000


@source
class Copying:
    """Prompts such as `copy: dakqp`, and the same letters as the answer. Each prompt belongs to one split, by its text."""

    class Config(ExchangeOptions):
        """letters: the most in a word. alphabet: how many letters there are, from `a` on."""

        letters: Annotated[Count, Field(le=256)] = 8
        alphabet: Annotated[int, Field(ge=2, le=26)] = 26

        @classmethod
        def examples(cls):
            return [cls(), cls(letters=12, alphabet=4, template="gemma2")]

    tokenizes = answers = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Exchanges:
        """Raises DataError for too few words, and where a row cannot hold the longest or a tokenizer has no turns."""
        config = self.config
        if config.alphabet**config.letters < 1000:
            reason = f"{config.alphabet} letters make {config.alphabet**config.letters} words of {config.letters}"
            raise DataError(f"{reason}; expected at least 1,000, so that every split has some", ("data", "source", "letters"))
        return exchanges.prepare(self, "copying", config, data)

    def exchange(self, split: str, number: int) -> Exchange:
        """An endless list of words for each split."""
        return drawn(self._draw, split, number)

    def longest(self) -> list[Exchange]:
        """The longest words of one letter, and of each in turn."""
        letters = self.config.letters
        words = [
            "z" * letters,
            *("".join(chr(97 + (i + first) % self.config.alphabet) for i in range(letters)) for first in range(8)),
        ]
        return [_asked(word) for word in words]

    def learned_from(self) -> list[str]:
        """Some prompts with their answers."""
        return [each.prompt + each.answer for each in (self.exchange("train", number) for number in range(LEARNED_FROM))]

    def count(self, split: str) -> None:
        """There is no end."""

    def _draw(self, random: np.random.Generator) -> tuple[Exchange, str]:
        length = int(random.integers(1, self.config.letters + 1))
        word = "".join(chr(97 + int(letter)) for letter in random.integers(self.config.alphabet, size=length))
        return _asked(word), word


def _asked(word):
    return Exchange(f"copy: {word}", word)
