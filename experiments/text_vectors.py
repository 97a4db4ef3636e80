"""The vectors of a dataset's texts, as evaluators use them.

Shapes: N texts, B texts of a batch, E numbers of a vector.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from arch.contracts import Given
from arch.model import Model
from experiments.data.pair import Pair
from experiments.evaluate import NotFinite
from experiments.split_rows import batch_rows


def vectors(
    model: Model,
    dataset: Any,
    texts: Sequence[str],
    kind: Literal["query", "document"],
    part: str,
    given: Given,
    context: int | None = None,
) -> Tensor:
    """(N, E) float32 of length 1, in the order of the texts, on the device. dataset: one of pairs; it adds the prompt.

    kind, part: which prompt. context: the most tokens of a text, by default those of training. Texts of about the same length
    are read together, and no more tokens at once than a kind of texts has in training. Raises `NotFinite` where a vector is
    not finite: it would rank nothing.
    """
    tokens = context or given.context
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    size = batch_rows(given, tokens)
    parts = []
    for start in range(0, len(order), size):
        rows = dataset.encoded([texts[number] for number in order[start : start + size]], kind, tokens, part).to(given.device)
        parts.append(model.encode(rows.tokens_BT, rows.layout))
    vectors_NE = torch.cat(parts)
    if not bool(vectors_NE.isfinite().all()):
        raise NotFinite(f"{given.split}/{kind} vectors")
    return torch.empty_like(vectors_NE).index_copy_(0, torch.tensor(order, device=vectors_NE.device), vectors_NE)


def of_parts(
    model: Model,
    dataset: Any,
    about: Mapping[str, Pair],
    kind: Literal["query", "document"],
    given: Given,
    context: int | None = None,
) -> Tensor:
    """(N, E) float64 on the CPU: `vectors` of texts, {text: a pair that it is of}, each with the prompt of its own part."""
    found: dict[str, Tensor] = {}
    for part in dict.fromkeys(pair.part for pair in about.values()):
        mine = [text for text, pair in about.items() if pair.part == part]
        found |= dict(zip(mine, vectors(model, dataset, mine, kind, part, given, context), strict=True))
    return torch.stack([found[text] for text in about]).cpu().double()


def truncated(vectors_NE: Tensor, width: int) -> Tensor:
    """The first `width` numbers of each vector, with length 1 again."""
    return torch.nn.functional.normalize(vectors_NE[:, :width], dim=1)
