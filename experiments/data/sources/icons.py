"""Pictures of icons, and the words of their names."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from arch.errors import DataError, install
from arch.registry import source
from arch.spec import Count, digest
from experiments.data import picture_rows
from experiments.data.picture_rows import IMAGE_TOKENS, Asked, PictureOptions, PictureRows
from experiments.data.split import SPLITS, split_of
from experiments.spec import DataSpec

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1  # increase this when the same options give other rows
# {font: how its file is called in qtawesome}; each font has a free licence of its own.
FONTS = {"material": "materialdesignicons6", "phosphor": "phosphor", "remix": "remixicon", "awesome": "fontawesome6-solid"}
QUESTION = "name"
LEAST = 10  # icons of a split


@source
class Icons:
    """Icons of a font with the words of their names: `arrow-left-circle` is drawn, `arrow left circle` is the answer.

    No icon is in two splits, but words are: a name must be put together of words that other icons have. Needs the extra `icons`.
    """

    class Config(PictureOptions):
        """font: material (7,367 icons in qtawesome 1.4), phosphor, remix or awesome. size: of an icon in pixels, before a tower
        resizes it.

        words: how many of the font's most frequent words are known; an icon with another word is left out. longest: the most
        words of a name.
        """

        font: Literal["material", "phosphor", "remix", "awesome"] = "material"
        size: Count = Field(default=32, ge=8)
        words: Count = 256
        longest: Count = 4

        @classmethod
        def examples(cls):
            return [cls(), cls(font="remix", words=64, longest=2, image_size=16)]

    images = True
    image_tokens = IMAGE_TOKENS

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> IconRows:
        """Raises DataError without the extra, where a split has too few icons, and where a row cannot hold an image and a name."""
        found = IconRows(self.config)
        for split, known in found.known.items():
            if len(known) < LEAST:
                reason = f"the {split} split has {len(known)} icons whose names are of at most {self.config.longest} of these words"
                raise DataError(f"{reason}; expected at least {LEAST}", key=("data", "source", "words"))
        found.check(data.context)
        return found

    def image_places(self, context: int) -> torch.Tensor:
        """(1, context): which image each token of a row is of, -1 for text."""
        return picture_rows.image_places(IconRows(self.config), context)


class IconRows(PictureRows):
    """The dataset: the one question is for the name, the parts of its answer are words."""

    config: Icons.Config

    def __init__(self, config: Icons.Config):
        self.icons, self.file = icons(config.font)
        counted = Counter(word for name in self.icons for word in name.split("-"))
        words = [word for word, _ in sorted(counted.items(), key=lambda each: (-each[1], each[0]))[: config.words]]
        super().__init__(config, [QUESTION], words, config.longest + 1)
        self.number = {word: i for i, word in enumerate(words)}
        fits = [name for name in self.icons if self._fits(name.split("-"))]
        self.known = {
            split: [name for name in fits if split_of(hashlib.sha256(name.encode()).digest()) == split] for split in SPLITS
        }

    def _fits(self, words):
        return len(words) <= self.config.longest and all(word in self.number for word in words)

    def digest(self, options: dict[str, Any]) -> str:
        """A digest (hex) of options, the names and the font."""
        font = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return digest({"format": FORMAT, "icons": options, "names": self.icons, "font": font})

    def asked(self, split: str, number: int) -> Asked:
        """The name of an icon, drawn with a shade and a place of its own."""
        from PIL import Image

        random = np.random.default_rng([SPLITS.index(split), number])
        name = self.known[split][int(random.integers(len(self.known[split])))]
        size, shade = self.config.size, int(random.integers(0, 64))
        picture = Image.new("L", (size, size), 255)
        left, upper = (int(each) for each in random.integers(0, size // 8 + 1, size=2))
        picture.paste(shade, (left, upper), covered(self.file, self.icons[name], size - size // 8))
        return Asked(0, [self.number[word] for word in name.split("-")], [picture])

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record."""
        counts = {split: len(known) for split, known in self.known.items()}
        about = {"fingerprint": self.fingerprint, "pictured": self.pictured}
        return about | {"source": "icons", "vocabulary": self.vocabulary, "names": counts}


@cache
def icons(font: str) -> tuple[dict[str, int], Path]:
    """({name: code point}, the file of the font) of a font in qtawesome. Raises DataError.

    The package is not imported: that would need Qt.
    """
    found = importlib.util.find_spec("qtawesome")
    if found is None or found.origin is None:
        raise DataError(f"icons need the package qtawesome: {install('icons')}")
    folder = Path(found.origin).parent / "fonts"
    names = sorted(folder.glob(f"{FONTS[font]}*charmap*.json"))
    files = sorted(folder.glob(f"{FONTS[font]}*.ttf"))
    if not names or not files:
        raise DataError(f"{folder}: no font called {FONTS[font]} there; expected qtawesome 1.4", key=("data", "source", "font"))
    said = json.loads(names[-1].read_text(encoding="utf-8"))
    return {name: int(code, 16) for name, code in sorted(said.items())}, files[-1]


@cache
def covered(file: Path, code: int, size: int) -> Image:
    """How much of each pixel an icon covers, in a square of this size."""
    from PIL import Image, ImageDraw, ImageFont

    font, made = ImageFont.truetype(str(file), size), Image.new("L", (size, size), 0)
    left, upper, right, lower = font.getbbox(chr(code))
    ImageDraw.Draw(made).text(((size - right - left) / 2, (size - lower - upper) / 2), chr(code), fill=255, font=font)
    return made
