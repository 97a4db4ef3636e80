"""A prompt with pictures for a model of a checkpoint, as `archbench generate` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from arch.errors import DataError
from arch.generate import Shown
from arch.images.crops import PanAndScan
from arch.images.places import numbered
from arch.images.prompts import FRAME, MARK, UNFRAMED, tokens_and_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from arch.model import Model
    from arch.tokenizer import TextTokens


def asked(
    model: Model, text: TextTokens, prompt: str, pictures: Sequence[Image], cut: PanAndScan | None = None
) -> tuple[list[int], Shown]:
    """(ids, Shown) of a prompt with a mark for each picture. cut: whether and how a picture is also shown in crops.

    Gemma's words stand around a picture with crops, unless the tokenizer has no such words, as that of a run on `pages`.

    Raises DataError for a model without a tower, and as `tokens_and_pixels` and `check_places`.
    """
    if model.vision is None:
        raise DataError("the model has no `vision`: it cannot read an image", key=None)
    vision = model.vision.config
    frame = FRAME if cut is None or _can_say(text, FRAME.format("", "")) else UNFRAMED
    ids, pixels_I3SS = tokens_and_pixels(text.part, prompt, pictures, vision, cut, frame)
    check_places(ids, len(pixels_I3SS), vision)
    if text.begin is not None and ids[:1] != [text.begin]:
        ids = [text.begin, *ids]
    image_BT = numbered(torch.tensor([ids]), vision.placeholder, vision.tokens)
    device = model.embedding.device
    return ids, Shown(image_BT.to(device), pixels_I3SS[None].to(device))


def _can_say(text, words):
    try:
        return bool(text.part(words))
    except DataError:
        return False


def check_places(ids: Sequence[int], images: int, vision: Any) -> None:
    """Raises DataError for a prompt in which other tokens stand for parts of images than those of its images.

    vision: the options of the model's tower; None for a model without one.
    """
    if vision is None or list(ids).count(vision.placeholder) == images * vision.tokens:
        return
    reason = f"the prompt has the token {vision.placeholder} itself, which holds the place of a part of an image"
    raise DataError(f"{reason}; expected {MARK} where a picture is, and its --image", key=None)
