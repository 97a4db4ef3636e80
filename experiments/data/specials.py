"""The tokens that stand for no text, and the one way a tokenizer is put together and read back."""

from pathlib import Path

import tokenizers

from arch.errors import DataError

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
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(Path(path)))
    except Exception as error:  # the library raises bare Exception, for a missing file as for a broken one
        raise DataError(f"{path}: cannot be read as a tokenizer ({error})") from None
    tokenizer.encode_special_tokens = True
    return tokenizer
