"""Pictures of pages with questions about them: what a model reads, and the number that it must answer.

Shapes: B rows, T tokens, I images of a row, S side of an image in pixels.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import tokenizers
import torch
from pydantic import Field, model_validator
from tokenizers import Regex, decoders, models, pre_tokenizers

from arch.errors import DataError
from arch.images.crops import PanAndScan, boxes
from arch.images.files import pixels
from arch.images.places import numbered
from arch.layout import TokenLayout
from arch.registry import source
from arch.spec import Count, Spec, digest
from arch.tokenizer import Ends
from arch.words import times
from experiments.data import pages
from experiments.data.batch import Batch, Rows
from experiments.data.draws import numbered_key
from experiments.data.split import SPLITS
from experiments.spec import DataSpec

FORMAT = 2  # increase this when the same options give other rows
# The tokens: padding, what begins a row, a placeholder, the start and the end of an image, where an answer is expected, what is
# behind its last digit; then ten digits, then one for each line that a question may name.
PAD, BEGIN, PLACEHOLDER, START, END, ANSWER, BLANK = range(7)
NAMES = ("<pad>", "<bos>", "<image_soft_token>", "<start_of_image>", "<end_of_image>", "?", "<eos>", *"0123456789")
DIGIT, LINE = 7, 17
SHIFT, EVALUATION = 32, 2**30  # a row's number is PLACE * 2^SHIFT + its place among the rows of a seed
KEY = ("data", "source")


@source
class Pages:
    """Pages of names and numbers as pictures; a question names a line, the answer is its number.

    A row is the image with its crops, the question, one place for each digit of the answer and one for its end. No place sees an
    earlier digit of the answer: it must be read, and cannot be guessed from the digit before.
    """

    class Config(Spec):
        """width, height: of the page in pixels, before a tower resizes it. lines: of a page. size: of the letters, in pixels.

        names: whether the names are drawn too. digits: of the longest answer. Lines with longer numbers are left out, and those
        that do not fit into the width. image_size, tokens: as of the model's tower. crops: Pan & Scan; null shows the page alone.
        """

        width: Count = 48
        height: Count = 32
        lines: Count = 2
        size: Annotated[float, Field(ge=4)] = 11.0
        names: bool = False
        digits: Count = 3
        image_size: Count = 48
        tokens: Count = 4
        crops: PanAndScan | None = None

        @model_validator(mode="after")
        def _several(self):
            if self.digits > 5:
                raise ValueError(f"digits: {self.digits}, but no number has more than 5")
            if self.size > self.height / self.lines:
                raise ValueError(f"size: {self.lines} lines of {self.size:g} pixels do not fit into a height of {self.height}")
            return self

        @classmethod
        def examples(cls):
            return [cls(), cls(width=96, height=16, lines=1, image_size=16, crops=PanAndScan(min_crop=16))]

    images = True
    image_tokens: ClassVar = {"placeholder": PLACEHOLDER, "start": START, "end": END}

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> "PageRows":
        """Raises DataError where a row cannot hold the images and the answer, or a page no line."""
        found = PageRows(self.config)
        for split in SPLITS:
            if not found.known[split]:
                longest = f"of at most {times(self.config.digits, 'digit')} that fits into {self.config.width} pixels"
                raise DataError(f"the {split} split has no line with a number {longest}", key=(*KEY, "digits"))
        if data.context < found.needed:
            raise DataError(
                f"{data.context:,} tokens cannot hold {times(found.most, 'image')}, a question and an answer; "
                f"expected at least {found.needed}",
                key=("data", "context"),
            )
        return found

    def image_places(self, context: int) -> torch.Tensor:
        """(1, context): which image each token of a row is of, -1 for text."""
        tokens_T = torch.full((context,), PAD)
        row = PageRows(self.config).row(0)
        tokens_T[: len(row)] = torch.tensor(row)[:context]
        return numbered(tokens_T[None], PLACEHOLDER, self.config.tokens)


class PageRows:
    """The dataset: a row is a pure function of its split and its number.

    Its tokenizer is for whoever asks a trained model something: `<image>line 1?`.
    """

    begin, ends, answer_token = BEGIN, Ends(BEGIN, BLANK), ANSWER

    def __init__(self, config: Pages.Config):
        self.config = config
        self.vocabulary = LINE + config.lines
        fits = config.digits, config.width, config.size, config.names
        self.known = {split: pages.readable(split, *fits) for split in SPLITS}
        self.boxes = [] if config.crops is None else boxes(config.width, config.height, config.crops)
        self.most = 1 + len(self.boxes)
        self.needed = 1 + self.most * (config.tokens + 2) + 1 + config.digits + 1

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """Words, and digits one by one; white space, such as the blank lines that stand around images, is no token."""
        asked = [f"line {line + 1}" for line in range(self.config.lines)]
        made = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate((*NAMES, *asked))}))
        parts = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[0-9]|[?]"), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([*parts])
        made.decoder = decoders.Fuse()
        made.add_special_tokens([name for name in NAMES if name.startswith("<")])
        made.add_tokens([tokenizers.AddedToken(each, normalized=False) for each in asked])
        return made

    @cached_property
    def fingerprint(self) -> str:
        """A digest (hex) of the options and of every name and number, which depend on Python's release and the system."""
        return digest({"format": FORMAT, "pages": self.config.dump(), "lines": [list(line) for line in pages.lines()]})

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

    def page(self, split: str, number: int) -> tuple[list[pages.Line], int, Any]:
        """(lines, the one that is asked for, the picture) of a row."""
        config, random = self.config, np.random.default_rng([SPLITS.index(split), number])
        known = self.known[split]
        page = [known[int(i)] for i in random.integers(len(known), size=config.lines)]
        asked = int(random.integers(config.lines))
        return page, asked, pages.drawn(page, config.width, config.height, config.size, config.names, random)

    def row(self, asked: int) -> list[int]:
        """The tokens of a row that asks for a line."""
        each = [START, *[PLACEHOLDER] * self.config.tokens, END]
        return [BEGIN, *each * self.most, LINE + asked, *[ANSWER] * (self.config.digits + 1)]

    def _row(self, split, number, context):
        page, asked, picture = self.page(split, number)
        row = self.row(asked)
        answer = [DIGIT + int(digit) for digit in page[asked].number]
        answer += [BLANK] * (self.config.digits + 1 - len(answer))
        targets = [-1] * (len(row) - len(answer)) + answer
        spare = context - len(row)
        shown = [picture, *(picture.crop(box) for box in self.boxes)]
        images_I3SS = torch.stack([pixels(part, self.config.image_size) for part in shown])
        return row + [PAD] * spare, targets + [-1] * spare, images_I3SS

    def spelt(self, tokens: list[int]) -> str:
        """The digits that tokens stand for, up to the first that is none."""
        digits = [token - DIGIT if DIGIT <= token < LINE else None for token in tokens]
        return "".join(map(str, digits[: digits.index(None)] if None in digits else digits))

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record."""
        counts = {split: len(known) for split, known in self.known.items()}
        return {"fingerprint": self.fingerprint, "source": "pages", "vocabulary": self.vocabulary, "names": counts}


def _first(seed: int) -> int:
    """The number of the first row that a seed reads."""
    place = seed if seed < EVALUATION else EVALUATION + 1 + int(numbered_key(seed)) % (EVALUATION - 1)
    return place << SHIFT
