"""Special tokens, which stand for no text, and how tokenizers are finished and loaded."""

from arch.tokenizer import read

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
# Their ids in the vocabularies that we build: <pad> 0, <bos> 1, <eos> 2.
SPECIALS = (PAD, BOS, EOS)


def finish(tokenizer, specials=SPECIALS):
    """Mark `specials` (already in the vocabulary) as special: `decode` omits them, `encode` never makes them from text.

    A corpus may contain the five characters "<eos>" (this file does). There they are text, not the end of a document.
    """
    tokenizer.add_special_tokens(list(specials))
    tokenizer.encode_special_tokens = True
    return tokenizer


def load(path):
    """The tokenizer in a `tokenizer.json`, with specials in text encoded as text, as in `finish`. Raises DataError.

    The file cannot store this setting. Other programs that read the file follow Hugging Face's convention and encode
    "<eos>" in a prompt as the special token.
    """
    tokenizer = read(path, key=("data", "tokenizer"))
    tokenizer.encode_special_tokens = True
    return tokenizer
