"""The tokenizer beside a checkpoint's weights: text in, text out as it comes."""

from pathlib import Path

import tokenizers

from arch import checkpoint
from arch.errors import DataError

# What tokenizers call the tokens that begin, end and fill up a text.
BEGIN, END, PAD = ("<bos>", "<s>"), ("<eos>", "</s>", "<end_of_turn>"), ("<pad>",)
BROKEN = "\ufffd"
# A character has at most four bytes: more broken text than that will not mend.
HELD = 4


def special_tokens(folder):
    """{bos_token_id, eos_token_id, pad_token_id} of a checkpoint folder: as it says, else by what its tokenizer calls them.

    Raises DataError where a token that is said to begin a text is called one that ends it, or the other way round.
    """
    said = checkpoint.generation(folder)
    path = Path(folder) / checkpoint.TOKENIZER
    if not path.is_file():
        return said
    vocabulary = read(path).get_vocab(with_added_tokens=True)
    for key, wrong in (("bos_token_id", END), ("eos_token_id", BEGIN)):
        numbers = said.get(key, [])
        for name in wrong:
            if vocabulary.get(name) in (numbers if isinstance(numbers, list) else [numbers]):
                raise DataError(f"{folder}: {key} is {vocabulary[name]}, which its {checkpoint.TOKENIZER} calls {name}", key=None)
    named = {
        key: [vocabulary[name] for name in names if name in vocabulary]
        for key, names in (("bos_token_id", BEGIN), ("eos_token_id", END), ("pad_token_id", PAD))
    }
    found = {
        key: numbers if key == "eos_token_id" and len(numbers) > 1 else numbers[0] for key, numbers in named.items() if numbers
    }
    return found | said


def read(path, key=None):
    """The `tokenizers.Tokenizer` of a tokenizer.json. Raises DataError (with `key`) where it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: cannot be read as a tokenizer ({error})", key=key) from None


class TextTokens:
    """The tokenizer.json of a checkpoint folder, and the tokens that begin and end a text.

    begin: an id or None. ends: a set of ids. Raises DataError where there is none or it cannot be read.
    """

    def __init__(self, folder):
        path = Path(folder) / checkpoint.TOKENIZER
        if not path.is_file():
            hint = "put the one that the model was trained with there"
            raise DataError(f"{folder}: no {checkpoint.TOKENIZER} in it; {hint}", key=None)
        self.tokenizer = read(path)
        special = special_tokens(folder)
        ends = special.get("eos_token_id", [])
        self.begin = special.get("bos_token_id")
        self.ends = set(ends) if isinstance(ends, list) else {ends}

    def encode(self, prompt):
        """The ids of a prompt, the beginning of a text in front of it once, whether the tokenizer adds it or not.

        Raises DataError for a prompt that is no Unicode text.
        """
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise DataError("the prompt is not UTF-8 text", key=None) from None
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return ids if self.begin is None or ids[:1] == [self.begin] else [self.begin, *ids]

    def stream(self, prompt_ids, ids):
        """Yields text as the tokens of an iterator complete it, up to one that ends a text; in all what they add to the
        prompt's text. Bytes that make no character come as U+FFFD, once it is clear that they never will."""
        before, held = list(prompt_ids), []
        for number in ids:
            if number in self.ends:
                break
            held.append(number)
            text = self._added(before, held)
            if text and (not text.endswith(BROKEN) or len(held) > HELD):
                yield text
                before, held = held, []
        if held and (text := self._added(before, held)):
            yield text

    def _added(self, before, held):
        """What `held` adds to the text of `before`, which tokenizers may join to it (a space in front of a word)."""
        whole, start = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + held, before))
        return whole[len(start) :]
