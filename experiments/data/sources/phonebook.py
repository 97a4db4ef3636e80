"""Looking up a number in a phone book: entries of a name and a number, then a question for one of the names."""

from typing import NamedTuple

import numpy as np

from arch.errors import DataError
from arch.registry import source
from arch.spec import Count, Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec

SOURCE = ("data", "source")
DIGITS = 10
# The first token ids: what fills a row behind its question, what stands between a name and its number, what ends an entry
# and what begins the question. Ten digits follow, then the symbols of names.
FILLER, BETWEEN, END, QUESTION = range(4)
FIRST_DIGIT, FIRST_SYMBOL = 4, 4 + DIGITS


@source
class Phonebook:
    """Phone book lookup (Jelassi et al. 2024; Griffin, section 6.2), in tokens without a tokenizer.

    An entry is the symbols of a name, a sign, the digits of a number and an end. Behind the book stands a question: one
    name again, and its number digit by digit. Scored are the digits of that number.
    """

    class Config(Spec):
        """entries: per book; by default as many as fit into `data.context`. names: symbols that names are made of.

        name: symbols per name. digits: digits per number.
        """

        entries: Count | None = None
        names: Count = 32
        name: Count = 2
        digits: Count = 4

        @classmethod
        def examples(cls):
            return [cls(), cls(entries=2, names=4, name=1, digits=1)]

    recalls = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError where a row cannot hold the book, and where there are fewer names than entries."""
        config = self.config
        task = Book(config.entries, config.names, config.name, config.digits)
        return generated(task, "phonebook", config, data.context)


class Book(NamedTuple):
    """The Task. entries: None for as many as fit."""

    entries: int | None
    names: int
    name: int
    digits: int

    @property
    def vocabulary(self) -> int:
        """Signs, digits and symbols of names."""
        return FIRST_SYMBOL + self.names

    @property
    def entry(self) -> int:
        """Tokens of an entry."""
        return self.name + self.digits + 2

    @property
    def question(self) -> int:
        """Tokens of the question: the last digit is predicted and never read."""
        return self.name + self.digits + 1

    def count(self, context: int) -> int:
        """Entries of a row of `context` tokens."""
        return self.entries or max(1, (context - self.question) // self.entry)

    def check(self, context: int) -> None:
        """The book with its question; a name of its own for each entry; numbers that fit into 64 bits."""
        entries = self.count(context)
        if context < (needed := entries * self.entry + self.question):
            what = f"{entries} entr{'y' if entries == 1 else 'ies'} and a question need {needed:,}"
            raise DataError(f"a row of {context:,} tokens is too short: {what}", key=(*SOURCE, "entries"))
        if self.names**self.name < entries:
            what = f"{self.names} symbols give {self.names**self.name:,} names of {self.name}, fewer than {entries:,} entries"
            raise DataError(what, key=(*SOURCE, "names"))
        if self.digits > 15 or self.names**self.name > 2**53:
            key = "digits" if self.digits > 15 else "name"
            raise DataError("too long: expected at most 15 digits, and at most 2^53 names", key=(*SOURCE, key))

    def draw(self, random: Draws, context: int) -> Content:
        """Names, each once, and numbers."""
        entries = self.count(context)
        names_NE = random.distinct(self.names**self.name, entries)
        return {"names": names_NE, "numbers": random.below(DIGITS**self.digits, entries)}

    def instance(self, content: Content) -> Whole:
        """The whole book; whichever name is asked for, it is the same instance."""
        return np.concatenate([content["names"], content["numbers"]], 1)

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The book, one of its names again, and its number."""
        rows, entries = np.arange(len(random)), self.count(context)
        names_NEK = FIRST_SYMBOL + spelt(content["names"], self.names, self.name)
        digits_NED = FIRST_DIGIT + spelt(content["numbers"], DIGITS, self.digits)
        sign = lambda token: np.full((len(rows), entries, 1), token)  # noqa: E731
        book_NT = np.concatenate([names_NEK, sign(BETWEEN), digits_NED, sign(END)], 2).reshape(len(rows), -1)
        asked_N = random.below(entries)
        start, first = book_NT.shape[1], book_NT.shape[1] + 1 + self.name  # of the question, and of its scored positions
        tokens_NT = np.full((len(rows), context), FILLER, dtype=np.int64)
        tokens_NT[:, :start] = book_NT
        tokens_NT[:, start] = QUESTION
        tokens_NT[:, start + 1 : first] = names_NEK[rows, asked_N]
        tokens_NT[:, first] = BETWEEN
        tokens_NT[:, first + 1 : first + self.digits] = digits_NED[rows, asked_N, :-1]
        scored = slice(first, first + self.digits)
        targets_NT, distance_NT, pairs_NT = np.full_like(tokens_NT, -1), np.zeros_like(tokens_NT), np.zeros_like(tokens_NT)
        targets_NT[:, scored] = digits_NED[rows, asked_N]
        distance_NT[:, scored] = (first - asked_N * self.entry - self.name)[:, None]
        pairs_NT[:, scored] = entries
        return Filled(tokens_NT, targets_NT, {"distance": distance_NT, "pairs": pairs_NT})


def spelt(numbers: Whole, base: int, places: int) -> Whole:
    """Whole numbers as `places` digits of a base, the highest first, in a new last axis."""
    return numbers[..., None] // base ** np.arange(places - 1, -1, -1) % base
