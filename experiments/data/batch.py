"""What flows from a dataset to an objective: rows of tokens with their layout, one or several kinds of them per batch.

Shapes: B rows, T tokens per row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from arch.layout import TokenLayout


@dataclass(eq=False)  # not frozen: Lightning converts batches field by field
class Rows:
    """Rows of tokens.

    tokens_BT: int64. layout: the documents, made once by whoever knows the rows. targets_BT: the token to predict at
    each position, -1 for none; None where nothing is predicted. key_B: the numbers of the rows within their split:
    with (seed, step) they identify a row, for caches and for draws that must not depend on its neighbours.
    extra: further tensors by name, rows first. document_BT: the number of each token's document within the split; given
    where a split is evaluated, None in training.
    """

    tokens_BT: Tensor
    layout: TokenLayout
    targets_BT: Tensor | None = None
    key_B: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    document_BT: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def part(self, rows: slice | Tensor) -> "Rows":
        """Some of the rows: a slice, or their numbers."""
        cut = lambda tensor: None if tensor is None else tensor[rows]  # noqa: E731
        extra = {name: tensor[rows] for name, tensor in self.extra.items()}
        kept = cut(self.targets_BT), cut(self.key_B), extra, cut(self.document_BT)
        return Rows(self.tokens_BT[rows], self.layout.rows(rows), *kept)

    def pieces(self, tokens: int) -> list["Rows"]:
        """The rows in pieces of at most so many tokens, or of one row."""
        at_once = max(1, tokens // self.tokens_BT.shape[1])
        return [self.part(slice(first, first + at_once)) for first in range(0, len(self), at_once)]

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on another device."""
        move = lambda tensor: None if tensor is None else tensor.to(device)  # noqa: E731
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        kept = move(self.targets_BT), move(self.key_B), extra, move(self.document_BT)
        return Rows(self.tokens_BT.to(device), self.layout.to(device), *kept)


class Batch(dict[str, Rows]):
    """Rows by kind: `{"text": rows}` for language modelling, `{"query": ..., "positive": ...}` for pairs.

    All kinds have the same number of rows; row b of each belongs together.
    parts: into how many micro-batches it will be split, for an objective whose `prepare` must know.
    drawn: (seed, step) of the step of training that reads it, for an objective whose `prepare` draws; (0, 0) in an evaluation.
    """

    parts: int = 1
    drawn: tuple[int, int] = (0, 0)

    @classmethod
    def text(cls, rows: Rows) -> "Batch":
        """A batch of one kind, `text`."""
        return cls(text=rows)

    @property
    def rows(self) -> int:
        """The number of rows, B."""
        return len(next(iter(self.values())))

    @property
    def weight(self) -> int:
        """What a step's loss is divided by: the positions with a target, or the rows where no kind has targets."""
        targets = [rows.targets_BT for rows in self.values() if rows.targets_BT is not None]
        return sum(int((targets_BT >= 0).sum()) for targets_BT in targets) if targets else self.rows

    def split(self, n: int) -> list["Batch"]:
        """`n` micro-batches of B/n rows each. Raises ValueError where n does not divide B."""
        return list(self.in_turn(n))

    def in_turn(self, n: int) -> Iterator["Batch"]:
        """The micro-batches of `split`, each made when its turn comes: a model keeps masks and rotations beside the rows it saw."""
        if self.rows % n:
            raise ValueError(f"{n} micro-batches do not divide {self.rows} rows")
        each = self.rows // n
        parts = (slice(first, first + each) for first in range(0, self.rows, each))
        return (Batch({kind: rows.part(part) for kind, rows in self.items()}) for part in parts)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch({kind: rows.to(device) for kind, rows in self.items()})
