"""Arithmetic modulo a number: a row is an expression, and its answer can be checked."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import List, Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import FEW, Content, Filled, Generated, generated
from experiments.spec import DataSpec

# Token `modulus + i` is operation i, and the one after all of them is the sign of equality.
OPERATIONS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


@source
class ModularArithmetic:
    """Expressions such as `a + b * c =` over the numbers modulo M, computed from left to right (Power et al. 2022).

    Each number is a token. Scored is the answer, behind the sign of equality that ends a row, so `data.context` is twice
    `terms`. Each expression belongs to one split.
    """

    class Config(Spec):
        """modulus: M, the numbers are 0 to M - 1. terms: numbers per expression. operations: each place draws one."""

        modulus: Annotated[int, Field(ge=2, le=2**20)] = 97
        terms: Annotated[int, Field(ge=2)] = 2
        operations: Annotated[List[Literal["add", "subtract", "multiply"]], Field(min_length=1)] = ("add",)

        @classmethod
        def examples(cls):
            return [cls(), cls(modulus=11, terms=3, operations=("add", "multiply"))]

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError for another context, and where so few expressions exist that a split would have none."""
        config = self.config
        task = Arithmetic(config.modulus, config.terms, tuple(dict.fromkeys(config.operations)))
        return generated(task, "modular_arithmetic", config, data.context)


class Arithmetic(NamedTuple):
    """The Task."""

    modulus: int
    terms: int
    operations: tuple[str, ...]

    @property
    def vocabulary(self) -> int:
        """Numbers, operations and the sign of equality."""
        return self.modulus + len(OPERATIONS) + 1

    def check(self, context: int) -> None:
        """An expression is a row."""
        if context != 2 * self.terms:
            raise DataError(
                f"expected {2 * self.terms}, the tokens of an expression of {self.terms} terms, got {context}",
                key=("data", "context"),
            )

    def draw(self, random: Draws, context: int) -> Content:
        """Numbers and operations."""
        signs = [self.modulus + list(OPERATIONS).index(name) for name in self.operations]
        numbers_NK = random.below(self.modulus, self.terms)
        return {"expression": _expression(numbers_NK, random.among(signs, self.terms - 1))}

    def all(self, context: int) -> Content | None:
        """Every expression, unless there are too many to list."""
        signs = [self.modulus + list(OPERATIONS).index(name) for name in self.operations]
        sizes = [self.modulus] * self.terms + [len(signs)] * (self.terms - 1)
        if np.prod(sizes, dtype=float) > FEW:
            return None
        every_KN = np.indices(sizes).reshape(len(sizes), -1)
        return {"expression": _expression(every_KN[: self.terms].T, np.asarray(signs)[every_KN[self.terms :].T])}

    def instance(self, content: Content) -> Whole:
        """The expression."""
        return content["expression"]

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The expression with its sign of equality, and the answer as the one target."""
        equals_N1 = np.full((len(content["expression"]), 1), self.vocabulary - 1)
        tokens_NT = np.concatenate([content["expression"], equals_N1], 1)
        targets_NT = np.full_like(tokens_NT, -1)
        targets_NT[:, -1] = self.answer(tokens_NT)
        return Filled(tokens_NT, targets_NT, {})

    def answer(self, tokens_NT: Whole) -> Whole:
        """The answers of expressions, (N,): tokens as in a row, whoever wrote them. From left to right."""
        total_N = tokens_NT[:, 0] % self.modulus
        for place in range(1, 2 * self.terms - 1, 2):
            results = [apply(total_N, tokens_NT[:, place + 1]) % self.modulus for apply in OPERATIONS.values()]
            total_N = np.choose(tokens_NT[:, place] - self.modulus, results)
        return total_N


def _expression(numbers_NK: Whole, signs_NK: Whole) -> Whole:
    """Numbers with an operation between each and the next."""
    expression = np.empty((len(numbers_NK), 2 * numbers_NK.shape[1] - 1), dtype=np.int64)
    expression[:, ::2], expression[:, 1::2] = numbers_NK, signs_NK
    return expression
