"""Pan & Scan: equal crops along the long side of a picture that is far from square (Gemma 3 report, section 2.1).

Each crop is shown beside the whole picture, so that small letters survive the resizing to a square. The released codes differ in
when they do it: transformers from a ratio of the sides of 1.2 on, if asked to; the PyTorch reference from 1.5 on, always.
"""

import math

from pydantic import Field

from arch.spec import Count, Spec


class PanAndScan(Spec):
    """ratio: of the long side to the short one from which a picture is cut. min_crop: the shortest side of a crop, in pixels.

    most: crops of a picture.
    """

    ratio: float = Field(default=1.2, ge=1)
    min_crop: Count = 256
    most: Count = 4


def boxes(width: int, height: int, how: PanAndScan) -> list[tuple[int, int, int, int]]:
    """The crops (left, upper, right, lower) of a picture of so many pixels; empty where it is shown as it is.

    They cover the picture, and are equal but for the last, which may be shorter.
    """
    long, short = max(width, height), min(width, height)
    if long / short < how.ratio:
        return []
    count = min(how.most, max(2, min(math.floor(long / short + 0.5), long // how.min_crop)))
    each = math.ceil(long / count)
    if min(each, short) < how.min_crop:
        return []
    cuts = [(first, min(first + each, long)) for first in range(0, long, each)]
    return [(a, 0, b, height) if width >= height else (0, a, width, b) for a, b in cuts]
