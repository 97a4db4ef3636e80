"""A dataset of a user's own, generated and not read: one file."""

import numpy as np
import torch

from arch.layout import TokenLayout
from arch.registry import source
from arch.spec import Count, Spec
from experiments.data.batch import Batch, Rows


@source
class Copying:
    """Half a row of random symbols, then the same again: only the second half is scored."""

    class Config(Spec):
        symbols: Count = 8

    def __init__(self, config):
        self.config = config

    def dataset(self, data):
        return Copies(self.config.symbols)


class Copies:
    tokenizer = None

    def __init__(self, symbols):
        self.vocabulary, self.fingerprint = symbols, f"copies of {symbols}"

    def summary(self):
        return {"fingerprint": self.fingerprint, "source": "copying", "vocabulary": self.vocabulary, "splits": {}}

    def batch(self, split, step, seed, rows, context):
        return self._rows(["train", "select", "report"].index(split), seed, step * rows + np.arange(rows), context)

    def evaluation(self, split, rows, context, batch_rows):
        for first in range(0, rows, batch_rows):
            numbers = np.arange(first, min(rows, first + batch_rows))
            yield self._rows(["train", "select", "report"].index(split), 0, numbers, context)

    def _rows(self, split, seed, numbers, context):
        half = context // 2
        first = np.stack([np.random.default_rng([split, seed, n]).integers(self.vocabulary, size=half) for n in numbers])
        tokens = torch.from_numpy(np.concatenate([first, first], 1))
        targets = torch.full_like(tokens, -1)
        targets[:, half - 1 : -1] = tokens[:, half:]
        return Batch.text(Rows(tokens, TokenLayout.whole(*tokens.shape), targets, torch.from_numpy(numbers)))
