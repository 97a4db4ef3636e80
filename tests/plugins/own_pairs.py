"""Pairs of texts of a user's own, made of numbers and not read: one file."""

import numpy as np
import torch

from arch.layout import TokenLayout
from arch.registry import source
from arch.spec import Count, Spec
from experiments.data.batch import Batch, Rows

SPLITS = ["train", "select", "report"]


@source
class Spelt:
    """A query is a word of 2 to 6 random letters, its positive the same word in the second half of the alphabet."""

    class Config(Spec):
        letters: Count = 10
        words: Count = 100
        negatives: bool = False
        identical: bool = False  # whether a positive is its query

    def __init__(self, config):
        self.config = config

    def pairs(self):
        raise NotImplementedError("these have no text")

    def dataset(self, data):
        return Words(self.config)


class Words:
    tokenizer = None

    def __init__(self, config):
        self.config = config
        self.vocabulary, self.fingerprint = 1 + 2 * config.letters, f"words of {config.dump()}"
        draw = np.random.default_rng(0)
        # 0 is padding.
        self.words = [1 + draw.integers(config.letters, size=draw.integers(2, 7)) for _ in range(3 * config.words)]

    def summary(self):
        return {"fingerprint": self.fingerprint, "source": "spelt", "vocabulary": self.vocabulary, "splits": {}}

    def batch(self, split, step, seed, rows, context):
        numbers = np.random.default_rng([SPLITS.index(split), seed, step]).permutation(self.config.words)[:rows]
        return self.of(split, numbers)

    def evaluation(self, split, rows, context, batch_rows):
        for first in range(0, rows, batch_rows):
            yield self.of(split, np.arange(first, min(rows, first + batch_rows)) % self.config.words)

    def of(self, split, numbers):
        """The Batch of the pairs with these numbers."""
        words = [self.words[SPLITS.index(split) * self.config.words + n] for n in numbers]
        shift = 0 if self.config.identical else self.config.letters
        batch = Batch(query=row_per_text(words, numbers), positive=row_per_text([word + shift for word in words], numbers))
        if self.config.negatives:
            batch["negative"] = row_per_text([np.roll(word, 1)[:-1] + shift for word in words], numbers)
        return batch


def row_per_text(texts, numbers):
    """Rows of one text each, padded on the right, with a number for each text."""
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.from_numpy(text)
    known = torch.tensor([hash(tuple(map(int, text))) for text in texts])
    layout = TokenLayout.right_padded(lengths, tokens.shape[1])
    return Rows(tokens, layout, key_B=torch.from_numpy(np.asarray(numbers)), extra={"text": known})
