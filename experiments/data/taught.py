"""A tokenizer that another source's data taught: the one that a run on that source learns."""

from typing import Any

import tokenizers

from arch import registry
from arch.spec import digest
from experiments.data import texts
from experiments.spec import DataSpec

# Tokens per row, which decide no tokenizer: a text of a pair needs room behind its prompt, a text corpus needs whole rows.
OF_PAIRS, OF_TEXTS = 2**16, 2


def resolved(source: dict[str, Any]) -> dict[str, Any]:
    """A source of texts or of pairs, with every option. Raises SpecError, which names the option; ValueError for others."""
    kind = registry.component("source", source["type"])
    return texts.resolved_pairs(source) if hasattr(kind, "pairs") else texts.resolved(source)


def tokenizer(source: dict[str, Any], learned: dict[str, Any], vocab_size: int) -> tokenizers.Tokenizer:
    """What the train split of a resolved source teaches the resolved tokenizer `learned`, of at most `vocab_size` tokens.

    It is taken from that source's prepared data: they are in the cache where another run reads them, and are prepared now where
    none does. Raises DataError.
    """
    from experiments.data.dataset import prepare  # it imports the tokenizers by name, the caller among them

    context = OF_PAIRS if hasattr(registry.component("source", source["type"]), "pairs") else OF_TEXTS
    made = prepare(DataSpec(source=source, tokenizer=learned, context=context, rows=1), vocab_size).tokenizer
    assert made is not None, "a source of texts or of pairs has a tokenizer"
    return tokenizers.Tokenizer.from_str(made.to_str())


def content(source: dict[str, Any]) -> str:
    """A digest (hex) that changes when the texts of a resolved source may have. Raises DataError."""
    component = registry.build("source", source)
    mark: str | None = texts.stamp(source)
    if mark is not None:
        return mark
    read = component.pairs if hasattr(component, "pairs") else component.documents
    return digest([list(each) for each in read()])
