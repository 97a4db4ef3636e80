"""The tokenizer beside a checkpoint's weights: text in, text out as it comes."""

from pathlib import Path

import tokenizers
from tokenizers.decoders import DecodeStream

from arch import checkpoint
from arch.errors import DataError

# What tokenizers call the tokens that begin and end a text, where no generation_config.json says it.
BEGIN, ENDS = ("<bos>", "<s>"), ("<eos>", "</s>", "<end_of_turn>")


class TextTokens:
    """The tokenizer.json of a checkpoint folder, and the tokens that begin and end a text.

    begin: an id or None. ends: a set of ids. Raises DataError where there is none or it cannot be read.
    """

    def __init__(self, folder):
        path = Path(folder) / checkpoint.TOKENIZER
        if not path.is_file():
            hint = "put the one that the model was trained with there"
            raise DataError(f"{folder}: no {checkpoint.TOKENIZER} in it; {hint}", key=None)
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path}: cannot be read as a tokenizer ({error})", key=None) from None
        said = checkpoint.generation(folder)
        vocabulary = self.tokenizer.get_vocab()
        begins = [vocabulary[name] for name in BEGIN if name in vocabulary]
        ends = said.get("eos_token_id", [vocabulary[name] for name in ENDS if name in vocabulary])
        self.begin = said.get("bos_token_id", begins[0] if begins else None)
        self.ends = {ends} if isinstance(ends, int) else set(ends)

    def encode(self, prompt):
        """The ids of a prompt, the beginning of a text in front of it once, whether the tokenizer adds it or not."""
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return ids if self.begin is None or ids[:1] == [self.begin] else [self.begin, *ids]

    def stream(self, prompt_ids, ids):
        """Yields text as the tokens of an iterator complete it, up to one that ends a text."""
        stream = DecodeStream(ids=list(prompt_ids), skip_special_tokens=True)
        for number in ids:
            if number in self.ends:
                return
            if text := stream.step(self.tokenizer, number):
                yield text
