"""Texts with their prompts as rows of tokens: `<bos>`, prompt, text, `<eos>`, cut with `<eos>` kept, padded on the right.

Shapes: B rows, T tokens, E texts with their prompts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arch.layout import TokenLayout
from experiments.data.batch import Rows

Whole = NDArray[np.int64]


def text_number(text: str) -> int:
    """The first 63 bits of the sha256 of a text, without its prompt: equal numbers mean equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """tokens: of all texts, one after the other; starts: where those of each begin (E + 1,). text_E: `text_number` of each.

    eos: the token that ends every row; None: there is none. pad: stands behind the tokens of shorter rows.
    """

    tokens: NDArray[Any]
    starts: Whole
    text_E: Whole
    eos: int | None
    pad: int

    @property
    def length_E(self) -> Whole:
        """The tokens of each text before it is cut, with its prompt and the tokens around it."""
        return np.diff(self.starts)

    def rows(self, entry_B: Whole, key_B: Whole, context: int) -> Rows:
        """These texts as rows of at most `context` tokens, as wide as the longest. `extra["text"]` (B,): `text_number`."""
        whole_B = self.length_E[entry_B]
        length_B = np.minimum(whole_B, context)
        place_T = np.arange(length_B.max())
        inside_BT = place_T < length_B[:, None]
        place_BT = np.where(inside_BT, self.starts[entry_B][:, None] + place_T, 0)
        tokens_BT = np.where(inside_BT, self.tokens[place_BT].astype(np.int64), self.pad)
        if self.eos is not None:
            tokens_BT[whole_B > context, -1] = self.eos  # such a row is as wide as all
        layout = TokenLayout.right_padded(torch.from_numpy(length_B), len(place_T))
        extra = {"text": torch.from_numpy(self.text_E[entry_B])}
        return Rows(torch.from_numpy(tokens_BT), layout, key_B=torch.from_numpy(key_B), extra=extra)


def encoded(texts: Sequence[str], ids: Sequence[Sequence[int]], eos: int | None, pad: int) -> Encoded:
    """The Encoded of texts. ids: of each, with its prompt and what stands around it, uncut (`arch.texts_to_rows.ids_of`)."""
    starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    tokens = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(starts[-1]))
    return Encoded(tokens, starts, np.array([text_number(text) for text in texts], dtype=np.int64), eos, pad)
