"""The tokenizer of prepared data: learned from the train split, and whether a model has room for its ids.

Shapes: V ids.
"""

from typing import Any, NamedTuple

import tokenizers
from rich.console import Console

from arch import registry
from arch.errors import DataError
from experiments.data.specials import Ends, ends, highest


class Learned(NamedTuple):
    """A tokenizer as it was learned. ends: around a text. vocabulary: V. lengths: (V,) int64, UTF-8 bytes of each id."""

    tokenizer: tokenizers.Tokenizer
    ends: Ends
    vocabulary: int
    lengths: Any


def learn(tokenizer: dict[str, Any], texts: list[str], vocab_size: int, console: Console) -> Learned:
    """What a resolved tokenizer learns from these texts, or reads from a file. Raises DataError as `check_vocabulary`."""
    component = registry.build("tokenizer", tokenizer)
    with console.status(f"Preparing the tokenizer {tokenizer['type']}"):
        trained = component.train(texts)
    around = ends(component, trained)
    vocabulary = highest(trained, around) + 1
    check_vocabulary(trained, vocabulary, tokenizer, vocab_size)
    return Learned(trained, around, vocabulary, component.byte_lengths(trained)[:vocabulary])


def check_vocabulary(trained: tokenizers.Tokenizer, vocabulary: int, tokenizer: dict[str, Any], vocab_size: int) -> None:
    """Raises DataError where a resolved tokenizer, as it was learned, gives ids that a model of `vocab_size` tokens lacks."""
    if vocabulary <= vocab_size:
        return
    kind, raised = tokenizer["type"], f"raise model.vocab_size to at least {vocabulary}"
    if vocabulary == trained.get_vocab_size():
        other = " or lower data.tokenizer.vocab_size" if "vocab_size" in tokenizer else " or use another data.tokenizer"
        reason = f"the tokenizer {kind} has {vocabulary:,} tokens but model.vocab_size is {vocab_size:,}: {raised}{other}"
    else:
        token = f"{vocabulary - 1:,} ({trained.id_to_token(vocabulary - 1)!r})"
        reason = (
            f"the tokenizer {kind} can give the id {token} but model.vocab_size is {vocab_size:,}: use another data.tokenizer "
            f"or {raised}; an imported embedding has another shape then, and would be drawn anew"
        )
    raise DataError(reason, key=("model", "vocab_size"))
