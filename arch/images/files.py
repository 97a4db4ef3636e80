"""Pictures in files: opened, checked, and as the pixels that a tower reads; and back.

Shapes: I images, S side of the square in pixels.
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL = 96  # pixels a side of a picture in a report
MOST = 50_000_000  # pixels: more would need gigabytes and minutes before it is made small
PLAIN = ("RGB", "L", "1")  # colours, grey, black and white


def opened(path: Path | str) -> Image:
    """The picture in a file, in colours. Raises DataError, which names the file, for what is no single plain picture.

    Refused are files with several pictures, with a palette or with transparency: how they become plain is not for us to guess.
    A picture that says how it is to be turned (a photograph's EXIF) is turned, as transformers and every viewer do.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged files, which are refused below, and of sizes: our own limit is lower
            with Image.open(path) as picture:
                _check(path, picture)
                return ImageOps.exif_transpose(picture).convert("RGB")
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", key=None) from None
    except Image.DecompressionBombError:
        raise _too_large(path, "too many pixels") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: no picture that Pillow can read", key=None) from None
    # Pillow has no class of its own for a damaged file: OSError, SyntaxError, TypeError, struct.error, ...
    except Exception as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a picture ({said})", key=None) from None


def _check(path, picture):
    width, height = picture.size
    if width * height > MOST:
        raise _too_large(path, f"{width:,} x {height:,} pixels")
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise DataError(f"{path}: {frames} pictures in one file (animated?); expected one", key=None)
    kind = ""
    if picture.mode not in PLAIN:
        kind = {"P": "colours from a palette", "CMYK": "CMYK colours"}.get(picture.mode, f"mode {picture.mode}")
    elif "transparency" in picture.info:
        kind = "a colour that stands for transparent"
    if kind:
        raise DataError(f"{path}: it has {kind}; expected RGB or grey without transparency: convert it first", key=None)


def _too_large(path, size):
    return DataError(f"{path}: {size}; expected at most {MOST:,} in all: make it smaller first", key=None)


def pixels(picture: Image, side: int) -> Tensor:
    """The picture as (3, S, S) in [-1, 1]: resized bilinearly to a square whatever its shape was, as Gemma 3 does."""
    from PIL import Image

    plain = picture if picture.mode == "L" else picture.convert("RGB")  # grey is resized once, not once for each colour
    x_SSC = np.asarray(plain.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32).reshape(side, side, -1) / 255
    return torch.from_numpy((x_SSC - 0.5) / 0.5).permute(2, 0, 1).expand(3, side, side).contiguous()


def png(images_I3SS: Tensor) -> str:
    """What a tower reads, its images beside each other, as a PNG in base64; of large ones a small form."""
    from PIL import Image

    row_SW3 = torch.cat(list(images_I3SS), dim=2).permute(1, 2, 0).float().cpu()
    picture = Image.fromarray(((row_SW3 + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
    picture.thumbnail((SMALL * len(images_I3SS), SMALL))
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()
