"""One token a character of the train split; any other character is `<unk>`."""

import numpy as np
from tokenizers import Tokenizer, decoders, models

from arch.registry import tokenizer
from arch.spec import Spec
from experiments.data.specials import SPECIALS, UNK, finish


@tokenizer
class Character:
    """Unicode code points, sorted. A character that the train split lacks becomes `<unk>` and is lost."""

    class Config(Spec):
        """No options: the vocabulary is as large as the train split's alphabet, and 4."""

        @classmethod
        def examples(cls):
            return [cls()]

    def __init__(self, config):
        self.config = config

    def train(self, texts):
        """The Tokenizer over the characters of `texts`."""
        specials = (*SPECIALS, UNK)
        characters = sorted(set().union(*texts))
        # BPE without merges: the same tokens as a split into characters gives, in a third of the time.
        vocabulary = {token: i for i, token in enumerate((*specials, *characters))}
        built = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, fuse_unk=False))
        built.decoder = decoders.Fuse()
        return finish(built, specials)

    def byte_lengths(self, trained):
        """(V,) int64: UTF-8 bytes each token stands for, 0 for specials.

        `<unk>` counts 0 too, as its character is not known: bits per byte come out too high by what it stands for.
        """
        lengths = np.zeros(trained.get_vocab_size(), dtype=np.int64)
        for token, number in trained.get_vocab().items():
            lengths[number] = 0 if token in (*SPECIALS, UNK) else len(token.encode())
        return lengths
