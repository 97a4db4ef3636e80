"""A source and a tokenizer of a user's own: counting in words, a token per word."""

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from arch.registry import source, tokenizer
from arch.spec import Count, Spec
from experiments.data.specials import SPECIALS, UNK, finish

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@source
class Counting:
    """Documents that spell the digits of consecutive numbers: (name, text)."""

    class Config(Spec):
        """documents: how many."""

        documents: Count = 300

    def __init__(self, config):
        self.config = config

    def documents(self):
        for n in range(self.config.documents):
            yield f"from {n}", "".join(f" {DIGITS[int(digit)]}" for k in range(30) for digit in str(37 * n + k))


@tokenizer
class Words:
    """One token per word and the space before it; words that the train split does not have become `<unk>`."""

    class Config(Spec):
        """No options."""

    def __init__(self, config):
        self.config = config

    def train(self, texts):
        words = sorted({f" {word}" for text in texts for word in text.split()})
        built = Tokenizer(models.WordLevel({token: i for i, token in enumerate((*SPECIALS, UNK, *words))}, unk_token=UNK))
        built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
        return finish(built, (*SPECIALS, UNK))

    def byte_lengths(self, trained):
        lengths = np.zeros(trained.get_vocab_size(), dtype=np.int64)
        for token, number in trained.get_vocab().items():
            lengths[number] = 0 if token in (*SPECIALS, UNK) else len(token.encode())
        return lengths
