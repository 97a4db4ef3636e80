"""Selective copying: a few data tokens among noise, to be repeated in order at the end."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Count, Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec


@source
class SelectiveCopy:
    """Selective copying (Gu and Dao 2023; Griffin, section 6.2): data tokens at random places in noise, then as many marks.

    At the marks, the data tokens are to be predicted in their order; nothing else is scored. Griffin's setting is the
    default with `data.context: 1024`. The last two of the vocabulary's tokens are noise and mark.
    """

    class Config(Spec):
        """vocabulary: token ids, noise and mark among them. tokens: data tokens per row."""

        vocabulary: Annotated[int, Field(ge=4)] = 16
        tokens: Count = 16

        @classmethod
        def examples(cls):
            return [cls(), cls(vocabulary=8, tokens=4)]

    recalls = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError where a row cannot hold the data tokens twice."""
        return generated(Copying(**self.config.dump()), "selective_copy", self.config, data.context)


class Copying(NamedTuple):
    """The Task."""

    vocabulary: int
    tokens: int

    def check(self, context: int) -> None:
        """The data tokens and as many marks."""
        if context < 2 * self.tokens:
            reason = f"a row of {context:,} tokens is too short: {self.tokens} data tokens and as many marks need {2 * self.tokens}"
            raise DataError(reason, key=("data", "source", "tokens"))

    def draw(self, random: Draws, context: int) -> Content:
        """The data tokens."""
        return {"data": random.below(self.vocabulary - 2, self.tokens)}

    def instance(self, content: Content) -> Whole:
        """The data tokens, wherever they stand."""
        return content["data"]

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The data tokens at random places before the marks."""
        noise, mark = self.vocabulary - 2, self.vocabulary - 1
        before = context - self.tokens
        place_NK = np.sort(random.distinct(before, self.tokens), 1)
        tokens_NT = np.full((len(random), context), noise, dtype=np.int64)
        np.put_along_axis(tokens_NT, place_NK, content["data"], 1)
        tokens_NT[:, before:] = mark
        targets_NT, distance_NT, pairs_NT = np.full_like(tokens_NT, -1), np.zeros_like(tokens_NT), np.zeros_like(tokens_NT)
        targets_NT[:, before:] = content["data"]
        distance_NT[:, before:] = np.arange(before, context) - place_NK
        pairs_NT[:, before:] = self.tokens
        return Filled(tokens_NT, targets_NT, {"distance": distance_NT, "pairs": pairs_NT})
