"""An existing tokenizer, such as that of an imported or a trained model."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from arch.errors import DataError
from arch.registry import tokenizer
from arch.spec import Spec, later, place
from arch.words import listed
from experiments.data.specials import BOS, EOS, UNK, load


@tokenizer
class File:
    """The `tokenizer.json` at `path`: a byte-level BPE (ours, GPT-2's), one with byte fallback (Gemma's), or another one.

    What it cannot give back as it was is refused, unless `data.on_loss` says otherwise.
    """

    class Config(Spec):
        """`path`: path of a `tokenizer.json`, relative to the working folder.

        `bos`, `eos`: the tokens that stand before and after every document, by their names in the file; null for none.
        `unk`: the token for text that the file does not know. The file's content is part of a run's identity; its path is
        not.
        """

        path: str = place(...)
        bos: str | None = later(BOS)
        eos: str | None = later(EOS)
        unk: str | None = later(UNK)

        @classmethod
        def examples(cls):
            """An empty list, because this tokenizer needs a file."""
            return []

    def __init__(self, config):
        self.path = Path(config.path).expanduser()
        self.specials: dict[str, str | None] = {"bos": config.bos, "eos": config.eos, "unk": config.unk}

    def content(self):
        """sha256 (hex) of the file. Raises DataError if it cannot be read."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}", key=("data", "tokenizer", "path")) from None

    def train(self, texts):
        """The Tokenizer in the file; `texts` are ignored. Raises DataError if it lacks a token of `bos`, `eos` or `unk`."""
        self.content()
        built = load(self.path)
        lacking = [kind for kind, name in self.specials.items() if name is not None and built.token_to_id(name) is None]
        if lacking == ["unk"] and self.specials["unk"] == UNK:  # by default, it has one if it is called so
            lacking = []
        if lacking:
            lacks = " and no ".join(str(self.specials[kind]) for kind in lacking if kind != "unk" or self.specials["unk"] != UNK)
            names = [token.content for _, token in sorted(built.get_added_tokens_decoder().items()) if token.special]
            has = f"its special tokens: {listed(names)}" if names else "it has no special tokens"
            reason = f"{self.path}: it has no token {lacks}; name its own (`bos: NAME`, `eos: NAME`) or say null; {has}"
            raise DataError(reason, key=("data", "tokenizer", "path"))
        special = {token.content for token in built.get_added_tokens_decoder().values() if token.special}
        for kind in ("bos", "eos"):
            name = self.specials[kind]
            if name is not None and name not in special and built.token_to_id(name) in built.encode(name).ids:
                reason = f"{name!r} is a token that text has too; expected a special one, or null"
                raise DataError(reason, key=("data", "tokenizer", kind))
        return built

    def byte_lengths(self, trained):
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials and for ids that have no token."""
        parts: dict[str, Any] = json.loads(trained.to_str())
        byte_level = '"ByteLevel"' in json.dumps(parts["decoder"])
        inner, last = parts["model"].get("continuing_subword_prefix") or "", parts["model"].get("end_of_word_suffix") or ""
        added = trained.get_added_tokens_decoder()
        lengths = np.zeros(max(trained.get_vocab(with_added_tokens=True).values()) + 1, dtype=np.int64)
        for token, number in trained.get_vocab(with_added_tokens=True).items():
            if number in added:
                lengths[number] = 0 if added[number].special else _consumed(trained, number, added[number].content)
            elif byte_level:
                lengths[number] = len(token)  # each character of GPT-2's alphabet is one byte
            elif re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                lengths[number] = 1
            else:
                lengths[number] = len(token.removeprefix(inner).removesuffix(last).replace("\u2581", " ").encode())
        return lengths


def _consumed(trained, number, content):
    """The bytes of text that the encoder turns into this added token.

    Gemma has tokens of several U+2581: they come from as many spaces, one byte each, and not from what they are called. So
    what the token is decoded to is encoded again, and its offsets say how much of it became the token.
    """
    for text in (trained.decode([number], skip_special_tokens=False), content):
        encoding = trained.encode(text, add_special_tokens=False)
        if encoding.ids == [number]:
            first, last = encoding.offsets[0]
            return len(text[first:last].encode())
    return len(content.encode())
