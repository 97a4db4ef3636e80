"""One token per byte: 256 bytes and 3 specials. Nothing is learned, and no text is unknown."""

from tokenizers import Tokenizer, models

from arch.registry import tokenizer
from arch.spec import Spec
from experiments.data import byte_level
from experiments.data.specials import SPECIALS, finish


@tokenizer
class Byte:
    """259 tokens. `decode(encode(text)) == text` for every text."""

    class Config(Spec):
        """No options."""

        @classmethod
        def examples(cls):
            return [cls()]

    def __init__(self, config):
        self.config = config

    def train(self, texts):
        """The Tokenizer; `texts` are ignored."""
        symbols = (*SPECIALS, *byte_level.ALPHABET)
        built = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
        byte_level.attach(built, words=False)
        return finish(built)

    def byte_lengths(self, trained):
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials."""
        return byte_level.byte_lengths(trained)
