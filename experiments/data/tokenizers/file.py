"""An existing tokenizer, such as that of an imported or a trained model."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from arch.errors import DataError
from arch.registry import tokenizer
from arch.spec import Spec, place
from experiments.data.specials import BOS, EOS, load


@tokenizer
class File:
    """The `tokenizer.json` at `path`: a byte-level BPE (ours, GPT-2's) or one with byte fallback (Gemma's)."""

    class Config(Spec):
        """`path`: path of a `tokenizer.json`, relative to the working folder.

        The file's content is part of a run's identity; its path is not.
        """

        path: str = place(...)

        @classmethod
        def examples(cls):
            """An empty list, because this tokenizer needs a file."""
            return []

    def __init__(self, config):
        self.path = Path(config.path).expanduser()

    def content(self):
        """sha256 (hex) of the file. Raises DataError if it cannot be read."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}", key=("data", "tokenizer", "path")) from None

    def train(self, texts):
        """The Tokenizer in the file; `texts` are ignored. Raises DataError if `<bos>` or `<eos>` is missing."""
        self.content()
        built = load(self.path)
        missing = [name for name in (BOS, EOS) if built.token_to_id(name) is None]
        if missing:
            reason = f"{self.path}: it has no token {' and no '.join(missing)}, which stand around every document"
            raise DataError(reason, key=("data", "tokenizer", "path"))
        return built

    def byte_lengths(self, trained):
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials."""
        said = json.loads(trained.to_str())
        byte_level = '"ByteLevel"' in json.dumps(said["decoder"])
        added = {token["id"]: token for token in said["added_tokens"]}
        lengths = np.zeros(max(trained.get_vocab().values()) + 1, dtype=np.int64)
        for token, number in trained.get_vocab().items():
            if number in added:
                lengths[number] = 0 if added[number]["special"] else len(token.encode())
            elif byte_level:
                lengths[number] = len(token)  # each character of GPT-2's alphabet is one byte
            elif re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                lengths[number] = 1
            else:
                lengths[number] = len(token.replace("\u2581", " ").encode())
        return lengths
