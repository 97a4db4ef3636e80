"""Pages with real names and numbers as pictures, and questions for a number.

A page has a few lines, each a name of Python's standard library and its number: `ECONNREFUSED 111`. It is drawn in fonts that come
with matplotlib. A question names a line; the answer is its number, digit by digit. What is drawn, how, and where is a pure function
of the row's number. Lines are of the row's own split by name, so no name of one split is in another.
"""

from __future__ import annotations

import errno
import hashlib
import html.entities
import http
import importlib.util
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.data.split import split_of
from experiments.edits import edits

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = ("DejaVuSansMono", "DejaVuSans", "DejaVuSerif")


class Line(NamedTuple):
    """A name and its number, as they are drawn."""

    name: str
    number: str


@cache
def lines() -> tuple[Line, ...]:
    """Every name with a number of one to five digits, sorted: error numbers, signals, HTTP statuses, HTML's entities."""
    found = {name: value for value, name in errno.errorcode.items()}
    found |= {each.name: int(each) for each in signal.Signals}
    found |= {each.name: int(each) for each in http.HTTPStatus}
    found |= html.entities.name2codepoint
    return tuple(sorted(Line(name, str(value)) for name, value in found.items() if 0 <= value < 100_000))


@cache
def of_split(split: str) -> tuple[Line, ...]:
    """The lines of a split, by their names alone."""
    return tuple(line for line in lines() if split_of(hashlib.sha256(line.name.encode()).digest()) == split)


def drawn(page: list[Line], width: int, height: int, size: float, names: bool, random: np.random.Generator) -> Image:
    """The page as a picture in grey: a font, a small shift and a shade of its own. names: whether names are drawn."""
    from PIL import Image, ImageDraw

    font = _font(FONTS[int(random.integers(len(FONTS)))], size)
    picture = Image.new("L", (width, height), 255)
    draw, each = ImageDraw.Draw(picture), height / len(page)
    shade = int(random.integers(0, 64))
    for i, line in enumerate(page):
        text = f"{line.name} {line.number}" if names else line.number
        slack = max(0.0, width - draw.textlength(text, font))
        left, upper = random.uniform(0, min(slack, size)), each * i + random.uniform(-0.1, 0.1) * size
        draw.text((left, upper + (each - size) / 2 - 0.1 * size), text, fill=shade, font=font)
    return picture


@cache
def _font(name, size):
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.origin is not None  # a dependency
    return ImageFont.truetype(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"), size)


def anls(said: str, right: str) -> float:
    """The average normalised Levenshtein similarity of DocVQA, of one answer: 1 - edits / length, and 0 below a half."""
    said, right = said.strip().lower(), right.strip().lower()
    share = edits(said, right) / max(len(said), len(right), 1)
    return 1 - share if share < 0.5 else 0.0
