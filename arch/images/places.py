"""Where images stand among tokens: which placeholders belong to which image.

Shapes: B rows, T tokens.
"""

import torch
from torch import Tensor

from arch.errors import DataError


def numbered(tokens_BT: Tensor, placeholder: int, each: int) -> Tensor:
    """The number of the image that each token is of, within its row, -1 for text (`TokenLayout.image_BT`).

    Every `each` placeholders in a row are an image, also where the next image follows at once. Raises DataError for a run of
    placeholders that is no whole number of images.
    """
    here_BT = tokens_BT == placeholder
    before_BT = here_BT.cumsum(1) - here_BT.long()  # placeholders before each token
    image_BT = torch.where(here_BT, before_BT // each, -1)
    ends_BT = here_BT.clone()
    ends_BT[:, :-1] &= ~here_BT[:, 1:]  # the last token of each run
    if bool((ends_BT & ((before_BT + 1) % each != 0)).any()):
        row, place = (int(i) for i in torch.nonzero(ends_BT & ((before_BT + 1) % each != 0))[0])
        raise DataError(
            f"row {row}: placeholders of images up to token {place} are no whole number of images of {each} tokens", key=None
        )
    return image_BT
