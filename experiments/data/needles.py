"""A needle: a fact with a random key and a random value, planted in text, and the question for it at the end of the text.

The question is the needle's own beginning: "The secret number of bodiku is 48213." is asked for by "The secret number of
bodiku is", so that a model of any size can answer, without having been taught to follow instructions. Needle and question
are built from the same pieces of tokens, each piece encoded alone; so the answer is the same tokens in both, whatever a
tokenizer would merge across the border.

Shapes: T tokens.
"""

from typing import Annotated, NamedTuple

import numpy as np
import tokenizers
from pydantic import AfterValidator

from arch.errors import SpecError
from experiments.data.specials import UNK

TEMPLATE = "The secret number of {key} is {value}."
KEY, VALUE = "{key}", "{value}"
CONSONANTS, VOWELS, SYLLABLES = "bdfgklmnprstvz", "aeiou", 3
LOWEST, HIGHEST = 10_000, 99_999  # of a value
# Of twenty keys, 18 are for training and one for each other split: no split asks for a key of another.
PARTS = {"train": range(18), "select": range(18, 19), "report": range(19, 20)}
OF = 20
# A row has at least so many tokens of text beside its needle. It is also how much longer than the longest of DRAWS needles
# a later one may be, which a plan does not know.
LEAST_TEXT, DRAWS = 8, 256


def _check(template: str) -> str:
    if template.count(KEY) != 1 or template.count(VALUE) != 1 or template.index(KEY) > template.index(VALUE):
        raise ValueError(f"expected a text with one {KEY} and, after it, one {VALUE}, such as {TEMPLATE!r}")
    return template


Template = Annotated[str, AfterValidator(_check)]


class Needle(NamedTuple):
    """Tokens of a needle as planted, of its question and of its answer: (T,) int64 each. text: as planted; answer: in words."""

    planted: np.ndarray
    question: np.ndarray
    answer: np.ndarray
    text: str
    value: str

    @property
    def tokens(self) -> int:
        """How many it takes of a row, beside `<bos>` and the text."""
        return len(self.planted) + len(self.question) + len(self.answer)


class Needles:
    """Draws needles of a template in the tokens of a tokenizer."""

    def __init__(self, template: str, tokenizer: tokenizers.Tokenizer):
        before, self.after = template.split(VALUE)
        self.before = before.rstrip()
        self.space = before[len(self.before) :]  # a space belongs to the word after it, as in most tokenizers
        self.tokenizer = tokenizer
        self.unknown = tokenizer.token_to_id(UNK)

    def draw(self, split: str, random: np.random.Generator) -> Needle:
        """A needle whose key is of this split. Raises SpecError, without a key, where the tokenizer cannot write it."""
        syllables = len(CONSONANTS) * len(VOWELS)
        part = PARTS[split]
        number = int(random.integers(syllables**SYLLABLES // OF)) * OF + int(random.integers(part.start, part.stop))
        key = ""
        for _ in range(SYLLABLES):
            number, syllable = divmod(number, syllables)
            key += CONSONANTS[syllable // len(VOWELS)] + VOWELS[syllable % len(VOWELS)]
        value = str(random.integers(LOWEST, HIGHEST + 1))
        question = self._encoded("\n" + self.before.replace(KEY, key))
        answer = self._encoded(self.space + value)
        planted = np.concatenate([question, answer, self._encoded(self.after + "\n")])
        return Needle(planted, question, answer, self.before.replace(KEY, key) + self.space + value + self.after, value)

    def longest(self, split: str) -> int:
        """The tokens of the longest of some needles of this split. Raises SpecError as `draw`."""
        random = np.random.default_rng(0)
        return max(self.draw(split, random).tokens for _ in range(DRAWS))

    def _encoded(self, text):
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.unknown is not None and self.unknown in ids:
            raise SpecError(f"the tokenizer has no tokens for {text!r}")
        return np.array(ids, dtype=np.int64)


def row(needle: Needle | None, asked: Needle, text_T: np.ndarray, begin: int, depth: float, tokens: int) -> tuple[np.ndarray, int]:
    """(`tokens` tokens, how many tokens the answer stands after the same one in the needle).

    They are `begin`, text with a needle at a depth of 0 (first) to 1 (last), the question and the answer. needle: None for
    the same row without one, in which more of the text stands in its place. text_T: at least `tokens` tokens of text.
    asked: the needle whose question is asked. Raises ValueError where there is no room.
    """
    planted = np.empty(0, np.int64) if needle is None else needle.planted
    room = tokens - 1 - len(planted) - len(asked.question) - len(asked.answer)
    if room < 0:
        raise ValueError(f"{tokens} tokens cannot hold a needle of {asked.tokens}")
    place = round(depth * room)
    row_T = np.concatenate([[begin], text_T[:place], planted, text_T[place:room], asked.question, asked.answer])
    return row_T, len(planted) + room - place
