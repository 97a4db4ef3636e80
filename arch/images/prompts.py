"""A prompt with pictures as tokens and pixels, laid out as for Gemma 3: blank line, start, soft tokens, end, blank line.

Shapes: I images, L soft tokens of an image, S side in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from arch.errors import DataError
from arch.images.crops import PanAndScan, boxes
from arch.images.files import pixels
from arch.words import times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

MARK = "<image>"  # stands in a prompt where a picture is shown
FRAME = "Here is the original image {} and here are some crops to help you see better {}"
UNFRAMED = "{}{}"  # for models that were trained with crops right behind the picture


def tokens_and_pixels(
    encode: Callable[[str], list[int]],
    text: str,
    pictures: Sequence[Image],
    vision: Any,
    cut: PanAndScan | None = None,
    frame: str = FRAME,
) -> tuple[list[int], Tensor]:
    """(ids, pixels (I, 3, S, S)) of a text with a mark for each picture. Without a token that begins a text.

    encode: a text as ids, without specials. vision: the options of the model's tower. cut: whether and how a picture is also shown
    in crops, which stand behind it. frame: the words around both, with places for the picture and the crops. Text between two
    images is encoded together with the blank lines around it, as others do.
    Raises DataError where marks and pictures differ in number.
    """
    parts = text.split(MARK)
    if len(parts) - 1 != len(pictures):
        given = times(len(pictures), "picture")
        raise DataError(f"{given}, but {len(parts) - 1} {MARK} in the prompt; expected as many of one as of the other", key=None)
    shown: list[Image] = []
    whole = parts[0]
    for picture, after in zip(pictures, parts[1:], strict=True):
        found = [] if cut is None else [picture.crop(box) for box in boxes(*picture.size, cut)]
        shown += [picture, *found]
        whole += (frame.format(MARK, " ".join([MARK] * len(found))) if found else MARK) + after
    ids: list[int] = []
    texts = whole.split(MARK)
    for i, part in enumerate(texts):
        first, last = i == 0, i == len(texts) - 1
        ids += encode(("" if first else "\n\n") + part + ("" if last else "\n\n"))
        if not last:
            around = [[] if token is None else [token] for token in (vision.start, vision.end)]
            ids += [*around[0], *[vision.placeholder] * vision.tokens, *around[1]]
    side = vision.image_size
    return ids, torch.stack([pixels(each, side) for each in shown]) if shown else torch.empty(0, 3, side, side)
