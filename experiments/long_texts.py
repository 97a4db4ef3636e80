"""What evaluators of long texts share: whole documents of a split, losses by position, buckets that double in width.

Shapes: B rows, T tokens.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from arch.contracts import Dataset, Given
from arch.errors import DataError, SpecError
from arch.kernels.cross_entropy import cross_entropies
from arch.model import Model
from arch.spec import List
from experiments.data.batch import Rows
from experiments.split_rows import batch_rows


def distinct(numbers: Any) -> Any:
    """Several numbers, if they are different. Raises ValueError."""
    if isinstance(numbers, tuple) and len({*numbers}) < max(1, len(numbers)):
        raise ValueError(f"expected different numbers, at least one, got {list(numbers)}")
    return numbers


# Numbers of tokens at which something is measured. With 8, every quarter has two tokens.
Length = Annotated[int, Field(ge=8)]
Lengths = Annotated[List[Length], AfterValidator(distinct)]
# One number, or several, which then stand in the names of metrics.
OneOrMore = Annotated[Length | List[Length], AfterValidator(distinct)]


def check(dataset: Dataset, split: str, tokens: int, key: str) -> None:
    """Raises SpecError at the option `key` where no document of the split has so many tokens."""
    if not hasattr(dataset, "long_documents"):
        raise SpecError("it reads whole documents, and this dataset has none")
    try:
        next(iter(dataset.long_documents(split, 1, tokens, 1)))
    except DataError as error:
        raise SpecError(str(error), (key,)) from None


def context_of(dataset: Dataset) -> int:
    """The training context of a dataset with documents, which is what lengths are by default."""
    context = getattr(dataset, "context", None)
    if context is None:
        raise SpecError("it reads whole documents, and this dataset has none")
    return int(context)


def documents(dataset: Dataset, split: str, rows: int, tokens: int, given: Given) -> Iterator[Rows]:
    """Yields the first `tokens` tokens of `rows` documents, on the run's device, as many tokens per batch as in training."""
    for batch in dataset.long_documents(split, rows, tokens, batch_rows(given, tokens)):
        yield batch["text"].to(given.device)


def nats(model: Model, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """-log p(target) of each position, (B, T) in float64 on the CPU; 0 where the target is -1. Every row is one document."""
    hidden_BTD, _ = model.trunk(tokens_BT)
    nats_N = cross_entropies(hidden_BTD.flatten(0, 1), model.head_weight, targets_BT.flatten(), model.spec.logit_softcap)
    return nats_N.view_as(targets_BT).double().cpu()


class Bucket(NamedTuple):
    """Positions from `first` to `last`, both inclusive, counted in tokens seen: position 0 has seen one token, itself."""

    first: int
    last: int

    @property
    def middle(self) -> float:
        """Where the bucket stands on a logarithmic axis."""
        return math.sqrt(self.first * self.last)


def buckets(tokens: int, per_doubling: int) -> list[Bucket]:
    """The buckets of `tokens` positions: `per_doubling` of them for each doubling of the tokens seen, where that many fit.

    They end at whole powers of two, so contexts of such lengths share their buckets up to the end of the shorter one.
    """
    found, last, step = [], 0, 0
    while last < tokens:
        end = min(int(2 ** (step / per_doubling) + 1e-9), tokens)
        if end > last:
            found.append(Bucket(last + 1, end))
        last, step = max(last, end), step + 1
    return found


class ByPosition:
    """Sums of nats and numbers of targets at each of T positions, over all rows that were added."""

    def __init__(self, tokens: int):
        self.nats_T = torch.zeros(tokens, dtype=torch.float64)
        self.targets_T = torch.zeros(tokens, dtype=torch.float64)

    def add(self, nats_BT: Tensor, targets_BT: Tensor) -> None:
        """Add rows: what `nats` gave of them, and their targets."""
        self.nats_T += nats_BT.sum(0)
        self.targets_T += (targets_BT >= 0).sum(0).cpu()

    def mean(self, first: int, last: int) -> float:
        """Nats per target over the positions that have seen `first` to `last` tokens; NaN without a target."""
        part = slice(first - 1, last)
        return float(self.nats_T[part].sum() / self.targets_T[part].sum())

    def table(self, per_doubling: int, loss: str) -> list[dict[str, float]]:
        """A plain row per bucket that has targets: first, last and middle (`seen`) in tokens seen, the loss, the targets."""
        return [
            {
                "first": bucket.first,
                "last": bucket.last,
                "seen": bucket.middle,
                loss: self.mean(*bucket),
                "targets": int(self.targets_T[bucket.first - 1 : bucket.last].sum()),
            }
            for bucket in buckets(len(self.nats_T), per_doubling)
            if self.targets_T[bucket.first - 1 : bucket.last].any()
        ]


def multiples(of: int, times: Sequence[float]) -> tuple[int, ...]:
    """Whole multiples or fractions of a context."""
    return tuple(max(1, int(of * each)) for each in times)
