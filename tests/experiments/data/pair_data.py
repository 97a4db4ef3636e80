"""Pairs that tests make up, and their dataset."""

import json
import random

from arch import registry
from arch.document import node
from experiments.data.dataset import prepare
from experiments.spec import DataSpec

WORDS = ["".join(random.Random(i).choices("abcdefgh", k=2 + i % 5)) for i in range(120)]


def made_up(groups=60, each=4, seed=0, **more):
    """Rows of pairs whose texts are all different: `each` in each of `groups` groups."""
    draw = random.Random(seed)
    text = lambda words: " ".join(draw.choices(WORDS, k=words))  # noqa: E731
    return [
        {"query": f"what is {g} {i} {text(3)}", "positive": f"answer {g} {i} {text(draw.randint(2, 40))}", "group": f"g{g}", **more}
        for g in range(groups)
        for i in range(each)
    ]


def store(path, rows):
    """The path as text, after writing a row per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def spec(source, tokenizer=None, context=32, rows=8, **more):
    """The resolved DataSpec of a source."""
    written = node({"source": source, "tokenizer": tokenizer or {"type": "bpe", "vocab_size": 300}})
    resolved = {kind: registry.resolve_component(kind, written, (kind,)) for kind in ("source", "tokenizer")}
    return DataSpec(**resolved, context=context, rows=rows, **more)


def dataset(source, tokenizer=None, **more):
    """The prepared dataset of a source, for a vocabulary of 512."""
    return prepare(spec(source, tokenizer, **more), 512)


def texts(pairs):
    """Every text of some pairs."""
    return {text for pair in pairs for text in pair.texts}
