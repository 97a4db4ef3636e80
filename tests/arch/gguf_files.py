"""A reader of GGUF files of its own, in a few lines, and small models that llama.cpp computes."""

import struct
from math import prod

import numpy as np
import tokenizers
from exported import checkpoint_of
from tiny_specs import resolved

from arch import document
from experiments.data.tokenizers.bpe import BPE
from experiments.data.tokenizers.byte import Byte

TEXTS = ["the cat sat on the mat, the cat's mat; 12 cats", "a <eos> in the text\n\n  and spaces", "naïve café – 漢字 🙂"] * 3
TOKENS = 320
ATTENTION = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 32, "window": 6}


def spec(name="gemma3", **changes):
    """A small resolved ModelSpec that an architecture of llama.cpp computes, with changes by dotted keys."""
    local_mixer, global_mixer, rest = {
        "gemma2": ({"softcap": 20.0}, {}, {"logit_softcap": 30.0, "pattern": ["local", "global"]}),
        "gemma3": ({"qk_norm": True}, {"rope": {"theta": 1e6, "scale": 8.0}}, {}),
        "gemma-embedding": (
            {"qk_norm": True, "causal": False, "window": {"before": 3, "after": 3}},
            {"rope": {"theta": 1e6}},
            {"pool": {"type": "mean"}, "project": [96, 64]},
        ),
    }[name]
    local = {"mixer": ATTENTION | local_mixer, "ffn": {"type": "gated", "hidden": 96}, "norm": "sandwich"}
    blocks = {"local": local, "global": {"like": "local", "mixer": {"window": None} | global_mixer}}
    data = {"dim": 64, "vocab_size": TOKENS, "layers": 7, "pattern": ["5*local", "global"], "embed_scale": "sqrt_dim"}
    data |= {"blocks": blocks} | rest
    return resolved(document.overridden(document.node(data), document.node(changes)))


def saved(folder, tokenizer="bpe", name="gemma3", **changes):
    """(folder of a checkpoint with random weights and norms, its model)."""
    model = checkpoint_of(spec(name, **changes), folder, noise=0.1)
    if tokenizer is not None:
        trained(tokenizer).save(str(folder / "tokenizer.json"))
    return folder, model


def trained(kind) -> tokenizers.Tokenizer:
    return Byte(Byte.Config()).train([]) if kind == "byte" else BPE(BPE.Config(vocab_size=300)).train(TEXTS)


SIZES = {0: (1, 4, "<f4"), 1: (1, 2, "<f2"), 2: (32, 18, None), 8: (32, 34, None), 30: (1, 2, None)}
SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}


class Read:
    """about: {key: value}. tensors: {name: (shape, code of its type, array of its values, or bytes (rows, bytes of a row))}."""

    def __init__(self, path):
        self.raw, self.at = path.read_bytes(), 0
        assert self.raw[:4] == b"GGUF" and struct.unpack_from("<I", self.raw, 4) == (3,)
        self.at = 8
        tensors, keys = self.take("<Q"), self.take("<Q")
        self.about = {self.text(): self.value(self.take("<I")) for _ in range(keys)}
        infos = []
        for _ in range(tensors):
            name = self.text()
            shape = tuple(reversed([self.take("<Q") for _ in range(self.take("<I"))]))
            infos.append((name, shape, self.take("<I"), self.take("<Q")))
        start = -(-self.at // 32) * 32
        self.tensors, self.bytes = {}, 0
        for name, shape, code, offset in infos:
            block, size, kind = SIZES[code]
            count = prod(shape) // block * size
            assert offset % 32 == 0
            content = np.frombuffer(self.raw, np.uint8, count, start + offset)
            self.tensors[name] = shape, code, content.view(kind).reshape(shape) if kind else content.reshape(*shape[:-1], -1)
            self.bytes += count

    def take(self, form):
        (value,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        size = self.take("<Q")
        self.at += size
        return self.raw[self.at - size : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("<I"), self.take("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.take(SCALARS[kind])
