"""The tokenizer of a checkpoint folder: encode a prompt, and decode tokens as they arrive."""

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from arch import checkpoint
from arch.errors import DataError

# Names that tokenizers give to the tokens that begin, end and pad a text.
BEGIN, END, PAD = ("<bos>", "<s>"), ("<eos>", "</s>", "<end_of_turn>"), ("<pad>",)
BROKEN = "\ufffd"
# A character has at most four bytes. If more tokens than this leave broken text, further tokens will not complete it.
HELD = 4


@dataclass(frozen=True)
class Ends:
    """The ids of the tokens that stand before and after every document, and of the one for what a tokenizer does not know.

    None: there is none.
    """

    bos: int | None = None
    eos: int | None = None
    unk: int | None = None


def special_tokens(folder):
    """{bos_token_id, eos_token_id, pad_token_id} of a checkpoint folder.

    The folder's config decides; a key that it lacks is found by the usual names in the tokenizer. Raises DataError if
    the tokenizer's name for the token that begins a text is one that ends a text, or the other way round.
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
    """The `tokenizers.Tokenizer` of a tokenizer.json. Raises DataError (with `key`) if it cannot be read.

    Without the truncation and the padding that a file may hold: they are of the batches that it was last used for.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: cannot be read as a tokenizer ({error})", key=key) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def around(tokenizer):
    """([ids], [ids]) that a tokenizer's own template puts in front of a text and behind it; empty lists without a template."""
    texts = ("a", *tokenizer.get_vocab())
    bare, text = next((ids, text) for text in texts if (ids := tokenizer.encode(text, add_special_tokens=False).ids))
    whole = tokenizer.encode(text).ids
    first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:first], whole[first + len(bare) :]


class TextTokens:
    """The tokenizer of a checkpoint folder, with the tokens that begin and end a text.

    begin: an id or None. ends: a set of ids; end: the first of them, of a text, or None. blind: what a model reads in place of
    each token that it wrote, an id, or None for that token itself. Raises DataError if there is no tokenizer.json or it cannot be
    read.
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
        self.end = next(iter(ends), None) if isinstance(ends, list) else ends
        self.blind = special.get(checkpoint.BLIND)

    def encode(self, prompt):
        """The ids of a prompt, with the begin token in front exactly once if there is one.

        Raises DataError for a prompt that is not valid Unicode text, or has what the tokenizer has no token for.
        """
        ids = self.part(prompt)
        return ids if self.begin is None or ids[:1] == [self.begin] else [self.begin, *ids]

    def part(self, text):
        """The ids of a part of a prompt, without a token that begins a text. Raises as `encode`."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError("the prompt is not UTF-8 text", key=None) from None
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exception, where there is no token for what is unknown
            raise DataError(f"the tokenizer cannot encode {text.strip()[:60]!r} ({error})", key=None) from None

    def stream(self, prompt_ids, ids):
        """Yield the text that the tokens of the iterator `ids` add to the prompt, up to a token that ends a text.

        Text is yielded when its characters are complete. Bytes that form no character come as U+FFFD, once it is clear
        that further tokens will not complete them.
        """
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
        """The text that `held` adds after `before`; decoded together, because a tokenizer may put a space between."""
        whole, start = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + held, before))
        return whole[len(start) :]
