"""Documents laid end to end and cut into rows.

The rule. A document is `<bos>`, its tokens, `<eos>`; the documents of a split follow each other in one stream. Row r
is tokens r*T to (r+1)*T of the stream, and each token's target is the token after it, so that a token is a target
exactly once an epoch (`<bos>`, which follows nothing, never). Where the next token belongs to another document there
is no target (-1). A document longer than what is left of a row goes on in the next row, and that piece is a document
of its own: its positions start at 0, states are reset, attention stays within it; only the last token before the cut
still has its target, the first token after it. What is left at the end of the stream, less than a row, is dropped.

B rows, T tokens a row (the context), N tokens in the stream.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch

# Which rows an evaluation reads, when there are more than it wants: one choice for every arm and every seed.
EVALUATION_SEED = 0


@dataclass(eq=False)  # not frozen: Lightning moves and converts batches field by field
class Batch:
    """int64 tensors. `targets_BT`: -1 is no target. `doc_BT`: number of the document within the row, from 0; -1 is
    padding. `pos_BT`: position within that document (or piece of one), from 0."""

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    doc_BT: torch.Tensor
    pos_BT: torch.Tensor

    def split(self, n):
        """`n` micro-batches of B/n rows each. Raises ValueError where n does not divide B."""
        rows = len(self.tokens_BT)
        if rows % n:
            raise ValueError(f"{n} micro-batches do not divide {rows} rows")
        return [Batch(*parts) for parts in zip(*(tensor.split(rows // n) for tensor in self._tensors()), strict=True)]

    def to(self, device):
        """The same batch on another device."""
        return Batch(*(tensor.to(device) for tensor in self._tensors()))

    def _tensors(self):
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, eq=False)
class Stream:
    """The packed documents of one split: `tokens` (N,) and `starts` (documents + 1,), where each begins, then N."""

    tokens: np.ndarray
    starts: np.ndarray

    def rows(self, context):
        """Number of whole rows of `context` tokens."""
        return len(self.tokens) // context

    def batch(self, rows, context):
        """The rows with the given numbers, as a Batch."""
        first_B1 = np.asarray(rows, dtype=np.int64)[:, None] * context
        place_BT = first_B1 + np.arange(context)
        doc_BT = np.searchsorted(self.starts, place_BT, side="right") - 1
        begin_BT, end_BT = self.starts[doc_BT], self.starts[doc_BT + 1]
        next_BT = np.minimum(place_BT + 1, len(self.tokens) - 1)
        targets_BT = np.where(place_BT + 1 < end_BT, self.tokens[next_BT].astype(np.int64), -1)
        arrays = (
            self.tokens[place_BT].astype(np.int64),
            targets_BT,
            doc_BT - doc_BT[:, :1],
            place_BT - np.maximum(begin_BT, first_B1),
        )
        return Batch(*(torch.from_numpy(array) for array in arrays))


def training_rows(available, step, seed, rows):
    """The numbers of the rows that step `step` (from 0) reads: a pure function of its arguments.

    Every epoch is a new permutation of all rows, drawn from (seed, epoch); a batch may straddle two epochs.
    """
    epochs, places = np.divmod(step * rows + np.arange(rows), available)
    return np.array([_permutation(available, seed, int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])


@lru_cache(maxsize=8)
def _permutation(available, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(available)


def evaluation_rows(available, wanted):
    """The numbers of the rows that an evaluation of `wanted` rows reads: always the same, all where there are fewer."""
    return np.sort(np.random.default_rng(EVALUATION_SEED).permutation(available)[:wanted])
