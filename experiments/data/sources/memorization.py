"""Facts to be kept in the weights: a table of keys and values that is the same in every row, and never shown."""

from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Spec
from experiments.data.draws import Draws, Whole, numbered_key
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec

# A row of one key would keep the fact of that key in one split, so that it could not be learned for the others.
FEWEST_KEYS = 2


@source
class Memorization:
    """Memorization (MAD, Poli et al. 2024): keys, each followed by a sign; at the sign, the key's value is to be predicted.

    Which value a key has is the same in every row and no row shows it, so it must be learned. Half of the tokens but one are
    keys, the other half values, and the last token is the sign. No two keys have the same value. MAD's setting is the default
    with `data.context: 32`.
    """

    class Config(Spec):
        """vocabulary: token ids, the sign among them. table: the number of the table, the same for all runs of a study."""

        vocabulary: Annotated[int, Field(ge=5)] = 256
        table: Annotated[int, Field(ge=0)] = 0

        @classmethod
        def examples(cls):
            return [cls(), cls(vocabulary=9, table=3)]

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError for an odd number of tokens per row, and for less than two keys."""
        return generated(Facts(self.config.vocabulary, self.config.table), "memorization", self.config, data.context)


class Facts:
    """The Task. table: the number of the table."""

    def __init__(self, vocabulary: int, table: int):
        self.vocabulary, self.table = vocabulary, table

    @property
    def keys(self) -> int:
        """The number of keys: tokens 0, 1, ..."""
        return (self.vocabulary - 1) // 2

    @cached_property
    def value_K(self) -> Whole:
        """The value of each key, a token: (keys,)."""
        values = self.vocabulary - 1 - self.keys
        return self.keys + Draws(np.array([numbered_key(self.table)], dtype=np.uint64)).distinct(values, self.keys)[0]

    def check(self, context: int) -> None:
        """A sign behind each key."""
        if context % 2 or context < 2 * FEWEST_KEYS:
            reason = f"expected an even number of at least {2 * FEWEST_KEYS}, a key and a sign in turn, got {context:,}"
            raise DataError(reason, key=("data", "context"))

    def draw(self, random: Draws, context: int) -> Content:
        """The keys of each row; one may come twice."""
        return {"keys": random.below(self.keys, context // 2)}

    def instance(self, content: Content) -> Whole:
        """The keys in their order."""
        return content["keys"]

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """Keys and signs in turn."""
        tokens_NT = np.full((len(random), context), self.vocabulary - 1, dtype=np.int64)
        targets_NT = np.full_like(tokens_NT, -1)
        tokens_NT[:, 0::2] = content["keys"]
        targets_NT[:, 1::2] = self.value_K[content["keys"]]
        return Filled(tokens_NT, targets_NT, {})
