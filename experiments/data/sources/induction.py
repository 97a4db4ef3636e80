"""Induction heads: what followed a special token the last time is to be predicted when it comes again."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec

# Tokens of a row that decide its split; so a long row costs little until its split is known.
HEAD = 32


@source
class Induction:
    """Induction heads (Olsson et al. 2022; Griffin, section 6.2): random tokens, among them once the special token.

    The row ends with the special token again, and the token that followed the first one is to be predicted: one scored
    position per row. Griffin's setting is the default, trained with `data.context: 256` and measured at longer rows by an
    evaluator's own context. The last of the vocabulary's tokens is the special one.
    """

    class Config(Spec):
        """vocabulary: token ids, the special one among them."""

        vocabulary: Annotated[int, Field(ge=3)] = 16

        @classmethod
        def examples(cls):
            return [cls(), cls(vocabulary=4)]

    recalls = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError for a row of less than 4 tokens."""
        return generated(Heads(self.config.vocabulary), "induction", self.config, data.context)


class Heads(NamedTuple):
    """The Task."""

    vocabulary: int

    def check(self, context: int) -> None:
        """The special token twice, the token to repeat, and one more."""
        if context < 4:
            raise DataError(f"expected at least 4 tokens per row, got {context}", key=("data", "context"))

    def draw(self, random: Draws, context: int) -> Content:
        """Where the special token stands, what follows it, and the first tokens of the row as they will be."""
        special, rows = self.vocabulary - 1, np.arange(len(random))
        place_N, answer_N = random.below(context - 2), random.below(special)
        head_NK = random.below(special, min(HEAD, context - 1))  # the last token is always the special one
        for offset, token_N in enumerate((np.full_like(answer_N, special), answer_N)):
            inside_N = place_N + offset < head_NK.shape[1]
            head_NK[rows[inside_N], place_N[inside_N] + offset] = token_N[inside_N]
        return {"place": place_N, "answer": answer_N, "head": head_NK}

    def instance(self, content: Content) -> Whole:
        """The place, the answer and the first tokens."""
        return np.concatenate([content["place"][:, None], content["answer"][:, None], content["head"]], 1)

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """Random tokens behind the first ones, and the special token twice."""
        special, rows, head_NK = self.vocabulary - 1, np.arange(len(random)), content["head"]
        tokens_NT = random.below(special, context)
        tokens_NT[:, : head_NK.shape[1]] = head_NK
        tokens_NT[rows, content["place"]] = special
        tokens_NT[rows, content["place"] + 1] = content["answer"]
        tokens_NT[:, -1] = special
        targets_NT, distance_NT, pairs_NT = np.full_like(tokens_NT, -1), np.zeros_like(tokens_NT), np.zeros_like(tokens_NT)
        targets_NT[:, -1] = content["answer"]
        distance_NT[:, -1] = context - 1 - content["place"]
        pairs_NT[:, -1] = 1
        return Filled(tokens_NT, targets_NT, {"distance": distance_NT, "pairs": pairs_NT})
