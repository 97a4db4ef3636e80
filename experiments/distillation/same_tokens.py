"""Whether a teacher reads the tokens that its student reads."""

from __future__ import annotations

from typing import Any

import tokenizers

from arch.contracts import Dataset, Referred
from arch.errors import SpecError


def differ(dataset: Dataset, theirs: tokenizers.Tokenizer | None) -> bool:
    """Whether a run and another one have tokenizers, and these have different tokens."""
    mine = dataset.tokenizer
    return mine is not None and theirs is not None and mine.get_vocab() != theirs.get_vocab()


def check(spec: Any, dataset: Dataset, teacher: Referred, key: str = "teacher") -> None:
    """Raises SpecError, at the option `key`, for a teacher whose tokens are others than those of the run of `spec`."""
    mine, theirs = dataset.tokenizer, teacher.tokenizer
    if teacher.data is not None and (mine is None) != (theirs is None):  # of a checkpoint that is no run, nobody knows
        sides = [
            f"{data.source['type']} {'without' if tokenizer is None else 'with'} a tokenizer"
            for data, tokenizer in ((teacher.data, theirs), (spec.data, mine))
        ]
        raise SpecError(f"the {key}'s data is {sides[0]}, this run's {sides[1]}; their ids mean other tokens", (key,))
    if differ(dataset, theirs):
        assert mine is not None and theirs is not None
        name = teacher.data.tokenizer["type"] if teacher.data is not None and teacher.data.tokenizer else "one"
        both = f"{name} with {theirs.get_vocab_size():,} tokens, this run's is {spec.data.tokenizer['type']} with"
        raise SpecError(f"the {key}'s tokenizer is {both} {mine.get_vocab_size():,}; their ids mean other tokens", (key,))
    if teacher.model.vocab_size != spec.model.vocab_size:
        both = f"{teacher.model.vocab_size:,} tokens, this run's model {spec.model.vocab_size:,}"
        raise SpecError(f"the {key}'s model has a vocabulary of {both}; expected the same", (key,))
