"""Special tokens, which stand for no text, and how tokenizers are finished and loaded."""

import tokenizers

from arch.tokenizer import Ends, read

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
# Their ids in the vocabularies that we build: <pad> 0, <bos> 1, <eos> 2.
SPECIALS = (PAD, BOS, EOS)


def ends(component: object, trained: tokenizers.Tokenizer) -> Ends:
    """The Ends of a tokenizer. A component may have `specials`, {bos, eos, unk: a token or None}; else it has ours."""
    names = {"bos": BOS, "eos": EOS, "unk": UNK} | getattr(component, "specials", {})
    return Ends(**{kind: None if name is None else trained.token_to_id(name) for kind, name in names.items()})


def highest(trained: tokenizers.Tokenizer, ends: Ends) -> int:
    """The highest id that a document can hold.

    A special token is never made from text (see `finish`), unless the vocabulary has it as a word too. So one beyond a
    model's embedding, such as the soft token of images in Gemma 3, does no harm.
    """
    numbers = set(trained.get_vocab(with_added_tokens=True).values())
    for number, token in trained.get_added_tokens_decoder().items():
        if token.special and number not in trained.encode(token.content, add_special_tokens=False).ids:
            numbers.discard(number)
    return max(numbers | {number for number in (ends.bos, ends.eos, ends.unk) if number is not None})


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
