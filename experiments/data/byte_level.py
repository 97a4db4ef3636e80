"""Byte-level text for the byte and BPE tokenizers: each byte is one printable character of GPT-2's alphabet."""

import numpy as np
from tokenizers import decoders, pre_tokenizers

from experiments.data.specials import SPECIALS

# Sorted like in the BPE trainer, so that both tokenizers give the 256 bytes the same ids.
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
SMALLEST_VOCABULARY = len(ALPHABET) + len(SPECIALS)


def attach(tokenizer, words):
    """Make `tokenizer` encode and decode bytes.

    With `words`, no token crosses the border of a word, a number or a run of punctuation.
    """
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()


def byte_lengths(tokenizer):
    """(V,) int64: the bytes that each token stands for, 0 for specials. One character of the alphabet is one byte."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = 0 if token in SPECIALS else len(token)
    return lengths
