"""A prompt and its answer, and the options that every source of them has. No torch here."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from arch.chat_template import Template
from arch.errors import DataError
from arch.spec import Spec
from experiments.data.split import SPLITS, split_of

# Candidates of a row before its split counts as empty: a split of 5 % needs so many with a probability of e^-200.
PATIENCE = 4096


class Exchange(NamedTuple):
    """prompt: what is asked. answer: the reference; others may be as good, a reward says so.

    before: what was said earlier in the same conversation, (prompt, answer) each. system: of this conversation, "" for none; None
    for that of the source.
    """

    prompt: str
    answer: str
    before: tuple[tuple[str, str], ...] = ()
    system: str | None = None


class ExchangeOptions(Spec):
    """The options of every source of prompts and answers.

    template: gemma3, gemma2, plain, a text with {prompt} and {answer}, or a folder or file with a Jinja template, as Hugging Face's
    have it. system: stands in front of the first prompt, in its turn, with an empty line between; in Jinja, where the template
    says.
    """

    template: Template = "gemma3"
    system: str = ""


class Task(Protocol):
    """What is asked. A source makes it of its options."""

    def exchange(self, split: str, number: int) -> Exchange:
        """Number `number` of the endless list of a split's exchanges: a pure function.

        No prompt, with what was said before it, is in two splits.
        """

    def longest(self) -> list[Exchange]:
        """Exchanges of which none is longer, by any tokenizer that is no longer on parts of them; or all there are."""

    def learned_from(self) -> list[str]:
        """Texts from which a tokenizer learns; of the train split alone."""

    def count(self, split: str) -> int | None:
        """How many exchanges a split has; None for a list without an end."""


def drawn(make: Callable[[np.random.Generator], tuple[Exchange, str]], split: str, number: int) -> Exchange:
    """The first exchange of this split that `make(generator)` draws; a pure function of split and number. Raises DataError.

    make: gives an exchange and what decides its split, equal for prompts of which one gives the other away (`3+4=` and `4+3=`).
    """
    random = np.random.default_rng([SPLITS.index(split), number])
    for _ in range(PATIENCE):
        found, decides = make(random)
        if split_of(hashlib.sha256(decides.encode()).digest()) == split:
            return found
    raise DataError(f"no prompt of the {split} split was found in {PATIENCE:,} draws; expected a larger task")
