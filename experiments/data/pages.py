"""Pages with real names and numbers as pictures, and questions for a number.

A page has a few lines, each a name that Python's standard library knows and its number: `ECONNREFUSED 111`. It is drawn in fonts
that come with matplotlib. A question names a line; the answer is its number, digit by digit. What is drawn, how, and where is a
pure function of the row's number. The number of a line decides its split, so no number and no name of one split is in another:
an answer that was learned by heart is of no use.
"""

from __future__ import annotations

import errno
import hashlib
import html.entities
import http
import importlib.util
import math
import signal
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.data.split import split_of
from experiments.edits import edits

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

FONTS = ("DejaVuSansMono", "DejaVuSans", "DejaVuSerif")
CHARACTERS = range(32, 10_000)  # of Unicode: those behind have mostly names that are numbers themselves


class Line(NamedTuple):
    """A name and its number, as they are drawn."""

    name: str
    number: str


@cache
def lines() -> tuple[Line, ...]:
    """Names with a number of one to five digits, sorted: characters, error numbers, signals, HTTP statuses, HTML's entities."""
    found = {name: number for number in CHARACTERS if (name := unicodedata.name(chr(number), ""))}
    found |= {name: value for value, name in errno.errorcode.items()}
    found |= {each.name: int(each) for each in signal.Signals}
    found |= {each.name: int(each) for each in http.HTTPStatus}
    found |= html.entities.name2codepoint
    return tuple(sorted(Line(name, str(value)) for name, value in found.items() if 0 <= value < 100_000))


@cache
def of_split(split: str) -> tuple[Line, ...]:
    """The lines of a split, by their numbers alone."""
    return tuple(line for line in lines() if split_of(hashlib.sha256(line.number.encode()).digest()) == split)


@cache
def readable(split: str, digits: int, width: int, size: float, names: bool) -> tuple[Line, ...]:
    """The lines of a split with at most so many digits that fit into a page's width in every font."""
    found = (line for line in of_split(split) if len(line.number) <= digits)
    return tuple(line for line in found if all(font(name, size).getlength(written(line, names)) <= width for name in FONTS))


def written(line: Line, names: bool) -> str:
    """A line as it is drawn."""
    return f"{line.name} {line.number}" if names else line.number


def drawn(page: list[Line], width: int, height: int, size: float, names: bool, random: np.random.Generator) -> Image:
    """The page as a picture in grey: a font, a small shift and a shade of its own. names: whether names are drawn."""
    from PIL import Image

    name, shade = FONTS[int(random.integers(len(FONTS)))], int(random.integers(0, 64))
    picture, each = Image.new("L", (width, height), 255), height / len(page)
    for i, line in enumerate(page):
        text = written(line, names)
        slack = max(0.0, width - font(name, size).getlength(text))
        left, upper = random.uniform(0, min(slack, size)), each * i + random.uniform(-0.1, 0.1) * size
        picture.paste(shade, (int(left), round(upper + (each - size) / 2 - 0.1 * size)), _letters(name, size, text))
    return picture


@lru_cache(maxsize=10_000)
def _letters(name: str, size: float, text: str) -> Image:
    """How much of each pixel the letters of a text cover: drawing them takes as long as a model takes to read them."""
    from PIL import Image, ImageDraw

    letters = font(name, size)
    covered = Image.new("L", (math.ceil(letters.getlength(text)) + 1, math.ceil(1.5 * size)), 0)
    ImageDraw.Draw(covered).text((0, 0), text, fill=255, font=letters)
    return covered


@cache
def font(name: str, size: float) -> FreeTypeFont:
    """A font of matplotlib, which is a dependency."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.origin is not None
    return ImageFont.truetype(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"), size)


def anls(said: str, right: str) -> float:
    """The average normalised Levenshtein similarity of DocVQA, of one answer: 1 - edits / length, and 0 below a half."""
    said, right = said.strip().lower(), right.strip().lower()
    share = edits(said, right) / max(len(said), len(right), 1)
    return 1 - share if share < 0.5 else 0.0
