"""Pictures of pages with questions about them: what a model reads, and the number that it must answer."""

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator

from arch.errors import DataError
from arch.images.crops import PanAndScan, boxes
from arch.registry import source
from arch.spec import Count, digest
from arch.words import times
from experiments.data import pages, picture_rows
from experiments.data.picture_rows import FIRST_PART, IMAGE_TOKENS, Asked, PictureOptions, PictureRows
from experiments.data.split import SPLITS
from experiments.spec import DataSpec

FORMAT = 2  # increase this when the same options give other rows
DIGITS = "0123456789"
LINE = FIRST_PART + len(DIGITS)  # the token of the first line
KEY = ("data", "source")


@source
class Pages:
    """Pages of names and numbers as pictures; a question names a line, the answer is its number.

    A row is the image with its crops, the question, one place for each digit of the answer and one for its end. No place sees an
    earlier digit of the answer: it must be read, and cannot be guessed from the digit before.
    """

    class Config(PictureOptions):
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
    image_tokens = IMAGE_TOKENS

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> "PageRows":
        """Raises DataError where a row cannot hold the images and the answer, or a page no line."""
        found = PageRows(self.config)
        for split in SPLITS:
            if not found.known[split]:
                longest = f"of at most {times(self.config.digits, 'digit')} that fits into {self.config.width} pixels"
                raise DataError(f"the {split} split has no line with a number {longest}", key=(*KEY, "digits"))
        found.check(data.context)
        return found

    def image_places(self, context: int) -> torch.Tensor:
        """(1, context): which image each token of a row is of, -1 for text."""
        return picture_rows.image_places(PageRows(self.config), context)


class PageRows(PictureRows):
    """The dataset: a question names a line of the page, the parts of its answer are digits."""

    config: Pages.Config
    single, between = "[0-9]|[?]", ""
    shown_by = (*PictureRows.shown_by, "crops")

    def __init__(self, config: Pages.Config):
        self.boxes = [] if config.crops is None else boxes(config.width, config.height, config.crops)
        questions = [f"line {line + 1}" for line in range(config.lines)]
        super().__init__(config, questions, DIGITS, config.digits + 1, 1 + len(self.boxes))
        fits = config.digits, config.width, config.size, config.names
        self.known = {split: pages.readable(split, *fits) for split in SPLITS}

    def digest(self, options: dict[str, Any]) -> str:
        """A digest (hex) of options and of every name and number, which depend on Python's release and the system."""
        return digest({"format": FORMAT, "pages": options, "lines": [list(line) for line in pages.lines()]})

    def page(self, split: str, number: int) -> tuple[list[pages.Line], int, Any]:
        """(lines, the one that is asked for, the picture) of a row."""
        config, random = self.config, np.random.default_rng([SPLITS.index(split), number])
        known = self.known[split]
        page = [known[int(i)] for i in random.integers(len(known), size=config.lines)]
        asked = int(random.integers(config.lines))
        return page, asked, pages.drawn(page, config.width, config.height, config.size, config.names, random)

    def asked(self, split: str, number: int) -> Asked:
        """The number of a line."""
        page, line, picture = self.page(split, number)
        return Asked(line, [int(digit) for digit in page[line].number], [picture, *(picture.crop(box) for box in self.boxes)])

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record."""
        counts = {split: len(known) for split, known in self.known.items()}
        about = {"fingerprint": self.fingerprint, "pictured": self.pictured}
        return about | {"source": "pages", "vocabulary": self.vocabulary, "names": counts}
