"""The texts that teach a tokenizer when another source than the run's own does: those of its train split."""

import hashlib
from typing import Any

from arch import registry
from arch.errors import DataError
from arch.spec import digest
from experiments.data import pair_splits
from experiments.data import texts as sources
from experiments.data.pair import Pair
from experiments.data.split import split_of


def resolved(source: dict[str, Any]) -> dict[str, Any]:
    """A source of texts or of pairs, with every option. Raises SpecError, which names the option; ValueError for others."""
    kind = registry.component("source", source["type"])
    return sources.resolved_pairs(source) if hasattr(kind, "pairs") else sources.resolved(source)


def of_pairs(pairs: list[Pair]) -> list[str]:
    """The texts of pairs, each once, in their order."""
    return list(dict.fromkeys(text for pair in pairs for text in pair.texts))


def texts(source: dict[str, Any]) -> list[str]:
    """The texts of the train split of a resolved source, as its own dataset would teach them. Raises DataError."""
    component = registry.build("source", source)
    if hasattr(component, "pairs"):
        splits, _ = pair_splits.read(component, source["type"], pair_splits.FRACTIONS)
        return of_pairs(splits["train"])
    found = [text for _, text in component.documents() if split_of(hashlib.sha256(text.encode()).digest()) == "train"]
    if not found:
        raise DataError(f"the source {source['type']} has no text in its train split", key=("data", "tokenizer", "learned_from"))
    return list(dict.fromkeys(found)) if getattr(component, "repeats", False) else found


def content(source: dict[str, Any]) -> str:
    """A digest (hex) that changes when the texts may have: of the files of a resolved source, or of its texts. Raises DataError."""
    return sources.stamp(source) or digest(texts(source))
