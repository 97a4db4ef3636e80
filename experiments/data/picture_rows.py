"""The dataset of pictures with questions: a row is a picture with its crops, a question, and a place for each part of the answer.

No place of an answer sees an earlier one: it must be read, and cannot be guessed from the part before.

Shapes: B rows, T tokens, I images of a row, S side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
import tokenizers
import torch
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers

from arch.errors import DataError
from arch.images.files import pixels
from arch.images.places import numbered
from arch.layout import TokenLayout
from arch.spec import Count, Spec
from arch.tokenizer import Ends
from arch.words import times
from experiments.data.batch import Batch, Rows
from experiments.data.draws import numbered_key

if TYPE_CHECKING:
    from PIL.Image import Image

# The tokens: padding, what begins a row, a placeholder, the start and the end of an image, where an answer is expected, what is
# behind its last part; then the parts of answers, then the questions.
PAD, BEGIN, PLACEHOLDER, START, END, ANSWER, BLANK = range(7)
SPECIALS = ("<pad>", "<bos>", "<image_soft_token>", "<start_of_image>", "<end_of_image>", "?", "<eos>")
FIRST_PART = len(SPECIALS)
SHIFT, EVALUATION = 32, 2**30  # a row's number is PLACE * 2^SHIFT + its place among the rows of a seed
IMAGE_TOKENS = {"placeholder": PLACEHOLDER, "start": START, "end": END}


class PictureOptions(Spec):
    """The options of every source of pictures. image_size, tokens: as of the model's tower."""

    image_size: Annotated[Count, Field(ge=1)] = 48
    tokens: Count = 4


class Asked(NamedTuple):
    """What a row asks. question, parts: numbers of the question and of the parts of its answer. pictures: the whole, then crops."""

    question: int
    parts: Sequence[int]
    pictures: Sequence[Image]


class PictureRows:
    """The dataset: a row is a pure function of its split and its number. A source says in `asked` what a row is of.

    Its tokenizer is for whoever asks a trained model something: `<image>QUESTION?`. Where parts are words, an answer has spaces.
    """

    begin, ends, answer_token = BEGIN, Ends(BEGIN, BLANK), ANSWER
    # What the tokenizer cuts a word into, and what stands between the parts of an answer.
    single: ClassVar[str] = "[?]"
    between: ClassVar[str] = " "
    # The options that say how a picture is shown, and not what it is.
    shown_by: ClassVar[tuple[str, ...]] = ("image_size", "tokens")

    def __init__(self, config: PictureOptions, questions: Sequence[str], parts: Sequence[str], places: int, most: int = 1):
        """places: of an answer, with the one of its end. most: pictures of a row."""
        self.config, self.questions, self.parts, self.places, self.most = config, questions, parts, places, most
        self.first_question = FIRST_PART + len(parts)
        self.vocabulary = self.first_question + len(questions)
        self.needed = 1 + most * (config.tokens + 2) + 1 + places

    def asked(self, split: str, number: int) -> Asked:
        """What a row is of."""
        raise NotImplementedError

    def digest(self, options: dict[str, Any]) -> str:
        """A digest (hex) of a source's options with all that they are of: names, fonts."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """The digest of all options."""
        return self.digest(self.config.dump())

    @cached_property
    def pictured(self) -> str:
        """The digest of what is asked of which pictures, however they are shown."""
        return self.digest({key: value for key, value in self.config.dump().items() if key not in self.shown_by})

    def check(self, context: int) -> None:
        """Raises DataError where a row of `context` tokens cannot hold the images, a question and an answer."""
        if context < self.needed:
            reason = f"{context:,} tokens cannot hold {times(self.most, 'image')}, a question and an answer"
            raise DataError(f"{reason}; expected at least {self.needed}", key=("data", "context"))

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """Words, and `single` parts one by one; white space, such as the blank lines that stand around images, is no token."""
        names = (*SPECIALS, *self.parts, *self.questions)
        made = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}))
        parts = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(self.single), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([*parts])
        made.decoder = decoders.WordPiece(cleanup=False) if self.between else decoders.Fuse()
        made.add_special_tokens([name for name in SPECIALS if name.startswith("<")])
        made.add_tokens([tokenizers.AddedToken(each, normalized=False) for each in self.questions])
        return made

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The rows of step `step` (from 0), which no other step reads."""
        return self.numbered(split, _first(seed) + step * rows + np.arange(rows), context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` rows that no run trains on, always the same ones."""
        for first in range(0, rows, batch_rows):
            yield self.numbered(split, (EVALUATION << SHIFT) + np.arange(first, min(rows, first + batch_rows)), context)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> np.ndarray:
        """The numbers of all rows that `steps` steps read, ascending: (N,) int64."""
        return _first(seed) + np.arange(steps * rows)

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """The rows with these numbers; `extra["images"]` is (B, I, 3, S, S)."""
        if context < self.needed:
            raise DataError(f"{context:,} tokens cannot hold a row; expected at least {self.needed}", key=("data", "context"))
        made = [self._row(split, int(number), context) for number in numbers]
        tokens_BT, targets_BT = (torch.tensor([row[i] for row in made]) for i in (0, 1))
        image_BT = numbered(tokens_BT, PLACEHOLDER, self.config.tokens)
        layout = TokenLayout.right_padded(torch.full((len(made),), self.needed), context).with_images(image_BT)
        extra = {"images": torch.stack([row[2] for row in made])}
        return Batch.text(Rows(tokens_BT, layout, targets_BT, torch.as_tensor(np.asarray(numbers)), extra))

    def row(self, question: int) -> list[int]:
        """The tokens of a row with this question."""
        each = [START, *[PLACEHOLDER] * self.config.tokens, END]
        return [BEGIN, *each * self.most, self.first_question + question, *[ANSWER] * self.places]

    def _row(self, split, number, context):
        asked = self.asked(split, number)
        row = self.row(asked.question)
        answer = [FIRST_PART + part for part in asked.parts]
        answer += [BLANK] * (self.places - len(answer))
        targets = [-1] * (len(row) - len(answer)) + answer
        spare = context - len(row)
        images_I3SS = torch.stack([pixels(picture, self.config.image_size) for picture in asked.pictures])
        return row + [PAD] * spare, targets + [-1] * spare, images_I3SS

    def spelt(self, tokens: list[int]) -> str:
        """The parts that tokens stand for, up to the first that is none."""
        parts = [self.parts[token - FIRST_PART] if FIRST_PART <= token < self.first_question else None for token in tokens]
        return self.between.join(str(part) for part in (parts[: parts.index(None)] if None in parts else parts))


def image_places(rows: PictureRows, context: int) -> torch.Tensor:
    """(1, context): which image each token of a row is of, -1 for text."""
    tokens_T = torch.full((context,), PAD)
    row = rows.row(0)
    tokens_T[: len(row)] = torch.tensor(row)[:context]
    return numbered(tokens_T[None], PLACEHOLDER, rows.config.tokens)


def _first(seed: int) -> int:
    """The number of the first row that a seed reads."""
    place = seed if seed < EVALUATION else EVALUATION + 1 + int(numbered_key(seed)) % (EVALUATION - 1)
    return place << SHIFT
