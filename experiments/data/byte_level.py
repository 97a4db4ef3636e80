"""Text as bytes, each written as one printable character (GPT-2's alphabet): what the byte and BPE tokenizers share."""

import numpy as np
from tokenizers import decoders, pre_tokenizers

from experiments.data.specials import SPECIALS

# Sorted, as the BPE trainer has it, so that both tokenizers give the 256 bytes the same numbers.
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
SMALLEST_VOCABULARY = len(ALPHABET) + len(SPECIALS)


def attach(tokenizer, words):
    """Let `tokenizer` read and write bytes; with `words`, no token crosses a word, number or run of punctuation."""
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()


def byte_lengths(tokenizer):
    """(V,) int64: the bytes each token stands for, 0 for specials. One character of the alphabet is one byte."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = 0 if token in SPECIALS else len(token)
    return lengths
