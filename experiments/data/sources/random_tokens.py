"""Random tokens with a mark at the end: nothing to predict from what came before, and much to remember (MAD's compression)."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec


@source
class RandomTokens:
    """Rows of independent random tokens, all equally probable, that end with a mark, the last token of the vocabulary.

    The random tokens behind the first one are targets. With the objective `compress`, all of them are predicted from the hidden
    state of the mark alone; with `next_token` no loss below log(vocabulary - 1) is possible. MAD's compression (Poli et al. 2024)
    is the default with `data.context: 32` and `compress`.
    """

    class Config(Spec):
        """vocabulary: token ids, the mark among them."""

        vocabulary: Annotated[int, Field(ge=3)] = 16

        @classmethod
        def examples(cls):
            return [cls(), cls(vocabulary=4)]

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError for a row of less than 3 tokens."""
        return generated(Marked(self.config.vocabulary), "random_tokens", self.config, data.context)


class Marked(NamedTuple):
    """The Task."""

    vocabulary: int

    def check(self, context: int) -> None:
        """Two random tokens and the mark."""
        if context < 3:
            raise DataError(f"expected at least 3 tokens per row, got {context}", key=("data", "context"))

    def draw(self, random: Draws, context: int) -> Content:
        """The random tokens."""
        return {"tokens": random.below(self.vocabulary - 1, context - 1)}

    def instance(self, content: Content) -> Whole:
        """All of them."""
        return content["tokens"]

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The random tokens, then the mark."""
        tokens_NT = np.pad(content["tokens"], ((0, 0), (0, 1)), constant_values=self.vocabulary - 1)
        targets_NT = np.full_like(tokens_NT, -1)
        targets_NT[:, :-2] = tokens_NT[:, 1:-1]
        return Filled(tokens_NT, targets_NT, {})
