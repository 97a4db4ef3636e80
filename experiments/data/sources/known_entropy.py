"""A small probabilistic grammar whose next-token distribution is known, so the floor of the loss is known too."""

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from arch.registry import source
from arch.spec import Count, Inner, Positive, Spec
from experiments.data.draws import Draws, Whole, numbered_key
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec

# Tokens of a row that decide its split; the rest is drawn once the split is known.
HEAD = 64


@source
class KnownEntropy:
    """Words between nested brackets of several types, drawn from a probabilistic context-free grammar.

    A token is a word, an opening bracket or the closing bracket of the innermost open one. Which words and brackets are
    probable depends on the innermost open bracket, so a model must know which one that is. Every prefix leaves one stack
    possible; so the distribution of the next token is known exactly, and a row says -log p of each of its targets. All
    targets are scored. A row begins with a start token and no open bracket.
    """

    class Config(Spec):
        """words, brackets: how many kinds of each. depth: the most brackets open at a time.

        open, close: the probability that the next token opens one or closes one, where both can be. sharpness: how much
        the probabilities of words and brackets differ (the scale of a Gumbel variable in their logarithm). grammar: the
        seed of these probabilities; they are the same for every run and split.
        """

        words: Count = 12
        brackets: Count = 3
        depth: Count = 3
        open: Inner = 0.15
        close: Inner = 0.2
        sharpness: Positive = 1.0
        grammar: Annotated[int, Field(ge=0)] = 0

        @model_validator(mode="after")
        def _leaves_words(self):
            if self.open + self.close >= 1:
                raise ValueError(f"open + close = {self.open + self.close:g} leaves no word; expected less than 1")
            return self

        @classmethod
        def examples(cls):
            return [cls(), cls(words=4, brackets=2, depth=1, grammar=1)]

    exact = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError where the rows are too few for three splits."""
        return generated(Grammar.of(self.config), "known_entropy", self.config, data.context)


class Grammar(NamedTuple):
    """The Task. p_SV: the distribution of the next token in each state, see `state`."""

    words: int
    brackets: int
    depth: int
    p_SV: NDArray[np.float64]

    @classmethod
    def of(cls, config: KnownEntropy.Config) -> "Grammar":
        """The grammar of these options. Tokens: words, opening brackets, closing brackets, start."""
        words, brackets = config.words, config.brackets
        random = Draws(numbered_key(config.grammar) + np.arange(brackets + 1, dtype=np.uint64))
        word_QW, bracket_QK = (_distributions(random, n, config.sharpness) for n in (words, brackets))
        p_SV = np.zeros((2 * (brackets + 1), words + 2 * brackets + 1))
        for top in range(brackets + 1):  # 0: no bracket is open
            for full in (0, 1):
                opens, closes = config.open * (not full), config.close * (top > 0)
                p_V = p_SV[2 * top + full]
                p_V[:words] = (1 - opens - closes) * word_QW[top]
                p_V[words : words + brackets] = opens * bracket_QK[top]
                if top:
                    p_V[words + brackets + top - 1] = closes
        return cls(words, brackets, config.depth, p_SV)

    @property
    def vocabulary(self) -> int:
        """Words, brackets and the start token."""
        return self.words + 2 * self.brackets + 1

    def check(self, context: int) -> None:
        """Rows of every length can be."""

    def draw(self, random: Draws, context: int) -> Content:
        """The first tokens behind the start, with -log p of each, and the stack behind them."""
        stack_ND, level_N = np.zeros((len(random), self.depth), dtype=np.int64), np.zeros(len(random), dtype=np.int64)
        return self._grown(random, {"stack": stack_ND, "level": level_N}, min(HEAD, context - 1))

    def instance(self, content: Content) -> Whole:
        """The first tokens."""
        return content["tokens"]

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The start token and what follows; each target is the token after it."""
        first = content["tokens"].shape[1]
        rest = self._grown(random, {name: content[name].copy() for name in ("stack", "level")}, context - first)
        targets_NT = np.concatenate([content["tokens"], rest["tokens"]], 1)
        nats_NT = np.concatenate([content["nats"], rest["nats"]], 1).astype(np.float32)
        tokens_NT = np.concatenate([np.full((len(targets_NT), 1), self.vocabulary - 1), targets_NT[:, :-1]], 1)
        return Filled(tokens_NT, targets_NT, {"nats": nats_NT})

    def state(self, stack_ND: Whole, level_N: Whole) -> Whole:
        """The row of `p_SV` for each stack: twice the innermost bracket (0: none), and 1 more where no other may open."""
        top_N = np.where(level_N > 0, stack_ND[np.arange(len(level_N)), level_N - 1], 0)
        return 2 * top_N + (level_N == self.depth)

    def _grown(self, random: Draws, stacks: Content, count: int) -> Content:
        """`count` further tokens of each row, with -log p of each; the stacks are changed in place."""
        stack_ND, level_N, rows = stacks["stack"], stacks["level"], np.arange(len(random))
        tokens_NT, nats_NT = np.empty((len(rows), count), dtype=np.int64), np.empty((len(rows), count))
        below_SV, uniform_NT = self.p_SV.cumsum(1), random.uniform(count)
        # Rounding may leave the sum below 1; what lies above belongs to the last token that can be.
        last_S = np.where(self.p_SV > 0, np.arange(self.p_SV.shape[1]), 0).max(1)
        for t in range(count):
            state_N = self.state(stack_ND, level_N)
            token_N = np.minimum((uniform_NT[:, t, None] >= below_SV[state_N]).sum(1), last_S[state_N])
            tokens_NT[:, t], nats_NT[:, t] = token_N, -np.log(self.p_SV[state_N, token_N])
            opened_N = (token_N >= self.words) & (token_N < self.words + self.brackets)
            closed_N = token_N >= self.words + self.brackets
            stack_ND[rows[opened_N], level_N[opened_N]] = token_N[opened_N] - self.words + 1
            level_N += opened_N.astype(np.int64) - closed_N
        return {"tokens": tokens_NT, "nats": nats_NT, "stack": stack_ND, "level": level_N}


def _distributions(random: Draws, count: int, sharpness: float) -> NDArray[np.float64]:
    """A distribution over `count` outcomes for each row: the softmax of Gumbel variables times the sharpness."""
    weight_QK = (-np.log(np.maximum(random.uniform(count), 2.0**-54))) ** -sharpness
    return weight_QK / weight_QK.sum(1, keepdims=True)
