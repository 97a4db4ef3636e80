"""Packing: documents are concatenated into one stream, which is cut into rows.

* A document is `<bos>`, its tokens, `<eos>`. The documents of a split follow each other in one stream.
* Row r holds tokens r*T to (r+1)*T of the stream. Each token's target is the token after it. If that one belongs to
  another document, there is no target (-1).
* So in one epoch every token is a target exactly once, except `<bos>`, which never is.
* A document that does not fit into the rest of a row continues in the next row. The continuation is treated as a new
  document: positions start at 0, states are reset, and attention stays within it. Still, the target of the last token
  before the cut is the first token after it.
* The rest at the end of the stream, less than a row, is dropped.

Shapes: B rows, T tokens per row (the context), N tokens in the stream.
"""

import heapq
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from arch.layout import TokenLayout
from experiments.data.batch import Batch, Rows

# Selects the rows of an evaluation if the split has more than it needs: the same rows for every arm and every seed.
EVALUATION_SEED = 0


@dataclass(frozen=True, eq=False)
class Stream:
    """The packed documents of one split: `tokens` (N,) and `starts` (documents + 1,), the start of each, then N."""

    tokens: np.ndarray
    starts: np.ndarray

    def rows(self, context: int) -> int:
        """The number of complete rows of `context` tokens."""
        return len(self.tokens) // context

    def batch(self, rows, context: int, documents: bool = False) -> Batch:
        """The rows with the given numbers, as a Batch of the kind `text`; the numbers are its keys.

        documents: with the number of each token's document.
        """
        numbers_B = np.asarray(rows, dtype=np.int64)
        batch = self.at(numbers_B * context, context, documents)
        batch["text"].key_B = _tensor(numbers_B)
        return batch

    def at(self, first_B: np.ndarray, context: int, documents: bool = False) -> Batch:
        """Rows of `context` tokens that begin at these tokens of the stream: as `batch` gives them, but without keys."""
        first_B1 = first_B[:, None]
        place_BT = first_B1 + np.arange(context)
        doc_BT = np.searchsorted(self.starts, place_BT, side="right") - 1
        begin_BT, end_BT = self.starts[doc_BT], self.starts[doc_BT + 1]
        next_BT = np.minimum(place_BT + 1, len(self.tokens) - 1)
        targets_BT = np.where(place_BT + 1 < end_BT, self.tokens[next_BT].astype(np.int64), -1)
        layout = TokenLayout(_tensor(doc_BT - doc_BT[:, :1]), _tensor(place_BT - np.maximum(begin_BT, first_B1)))
        tokens_BT = _tensor(self.tokens[place_BT].astype(np.int64))
        rows = Rows(tokens_BT, layout, _tensor(targets_BT))
        rows.document_BT = _tensor(doc_BT) if documents else None
        return Batch.text(rows)


def _tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def training_rows(available, step, seed, rows):
    """The numbers of the rows that step `step` (from 0) reads: a pure function of the arguments.

    Every epoch is a new permutation of all `available` rows, drawn from (seed, epoch). A batch may span two epochs.
    """
    epochs, places = np.divmod(step * rows + np.arange(rows), available)
    return np.array([_permutation(available, seed, int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])


@lru_cache(maxsize=8)
def _permutation(available, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(available)


def evaluation_rows(available, wanted):
    """The numbers of the rows of an evaluation of `wanted` rows: always the same ones; all rows if there are fewer."""
    return np.sort(np.random.default_rng(EVALUATION_SEED).permutation(available)[:wanted])


def spread_rows(starts, context, wanted):
    """The numbers of `wanted` rows that are spread over the documents; always the same ones; all rows if there are fewer.

    Again and again, the document with the fewest tokens so far gives one of its remaining rows. So documents have equal
    parts, but for those that are shorter, and a few long ones do not decide the mean. Which of its rows a document gives,
    and which documents come first where there are more than rows, is drawn with a fixed seed.

    starts: as in a Stream.
    """
    available, documents = int(starts[-1]) // context, len(starts) - 1
    if wanted >= available:
        return np.arange(available)
    random = np.random.default_rng(EVALUATION_SEED)
    rank, tie = random.permutation(available), random.permutation(documents)
    tokens, remaining = np.zeros(documents, dtype=np.int64), {}
    chosen: set[int] = set()
    queue = [(0, int(tie[document]), document) for document in range(documents)]
    heapq.heapify(queue)
    while len(chosen) < wanted:
        known, _, document = queue[0]
        if known < tokens[document]:  # a row of another document held some of this one
            heapq.heapreplace(queue, (int(tokens[document]), int(tie[document]), document))
            continue
        if document not in remaining:
            first, last = starts[document] // context, (starts[document + 1] - 1) // context
            remaining[document] = iter(sorted(range(first, min(last + 1, available)), key=rank.__getitem__))
        row = next((row for row in remaining[document] if row not in chosen), None)
        if row is None:
            heapq.heappop(queue)
            continue
        chosen.add(row)
        first, last = np.searchsorted(starts, [row * context, (row + 1) * context - 1], side="right") - 1
        edges = np.clip(starts[first : last + 2], row * context, (row + 1) * context)
        tokens[first : last + 1] += np.diff(edges)
    return np.sort(np.fromiter(chosen, dtype=np.int64))
