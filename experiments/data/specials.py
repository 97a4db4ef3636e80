"""The tokens that stand for no text, and the one way a tokenizer is put together and read back."""

from arch.tokenizer import read

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
# Their places in every vocabulary: <pad> 0, <bos> 1, <eos> 2.
SPECIALS = (PAD, BOS, EOS)


def finish(tokenizer, specials=SPECIALS):
    """Mark `specials` (already in the vocabulary) as special: `decode` leaves them out, `encode` never makes one of text.

    A corpus may well hold the five characters "<eos>" (this file does); they are text there, not the end of a document.
    """
    tokenizer.add_special_tokens(list(specials))
    tokenizer.encode_special_tokens = True
    return tokenizer


def load(path):
    """The tokenizer that a `tokenizer.json` holds, as `finish` left it. Raises DataError.

    The file cannot store that specials in text are text; a program that reads it otherwise follows Hugging Face's
    convention and takes "<eos>" in a prompt for the special.
    """
    tokenizer = read(path, key=("data", "tokenizer"))
    tokenizer.encode_special_tokens = True
    return tokenizer
