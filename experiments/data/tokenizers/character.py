"""One token per character of the train split; any other character becomes `<unk>`."""

import numpy as np
from tokenizers import Tokenizer, decoders, models

from arch.registry import tokenizer
from arch.spec import Spec
from experiments.data.specials import SPECIALS, UNK, finish


@tokenizer
class Character:
    """Tokens are the train split's Unicode code points, sorted. Other characters become `<unk>` and are lost."""

    class Config(Spec):
        """No options. The vocabulary is the train split's alphabet and 4 specials."""

        @classmethod
        def examples(cls):
            return [cls()]

    def __init__(self, config):
        self.config = config

    def train(self, texts):
        """The Tokenizer over the characters of `texts`."""
        specials = (*SPECIALS, UNK)
        characters = sorted(set().union(*texts))
        # BPE without merges gives the same tokens as splitting into characters, in a third of the time.
        vocabulary = {token: i for i, token in enumerate((*specials, *characters))}
        built = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, fuse_unk=False))
        built.decoder = decoders.Fuse()
        return finish(built, specials)

    def byte_lengths(self, trained):
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials.

        `<unk>` counts as 0 too, because its character is unknown. Bits per byte are too high if the text has such
        characters: their bytes are not counted.
        """
        lengths = np.zeros(trained.get_vocab_size(), dtype=np.int64)
        for token, number in trained.get_vocab().items():
            lengths[number] = 0 if token in (*SPECIALS, UNK) else len(token.encode())
        return lengths
