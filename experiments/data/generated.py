"""Datasets that are generators: rows are computed and not read, each a pure function of (split, seed, step, row).

A *task* says what an instance is and how it becomes a row; this module gives it numbers, splits and batches:

* The rows of a split are an endless numbered list. A seed reads it from a place of its own on, one row after the other. So
  a row has a number (`Rows.key_B`) that says all of it, and may be computed again on its own.
* What decides an instance is hashed, and the hash decides its split. A candidate of another split is dropped, and the row
  draws the next one. So no two splits share an instance, and no list of instances is kept.
* Where there are few instances (`Listed`), each belongs to a split in the same way. An evaluation then reads each once,
  and a split without any is an error.

Shapes: N rows, B rows of a batch, T tokens per row, K numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray

from arch.errors import DataError
from arch.layout import TokenLayout
from arch.spec import digest
from experiments.data.batch import Batch, Rows
from experiments.data.draws import GOLDEN, Bits, Draws, Whole, hashed, mixed, numbered_key, share
from experiments.data.split import FRACTIONS, SPLITS

# Increase this when the rules of this module change: the same options then give other rows, and runs on them are others.
FORMAT = 1
# Tasks with at most so many instances list them all.
FEW = 1 << 20
# Rows drawn at once: enough to be fast, few enough to need little memory.
CHUNK = 1024
# Candidates of a row before its split counts as empty: a split of 5 % needs so many with a probability of e^-200.
PATIENCE = 4096
# The numbers of rows that a seed reads begin here; those of an evaluation begin at 0.
TRAINING = 1 << 40

Content = dict[str, NDArray[Any]]


class Filled(NamedTuple):
    """Rows of a task: tokens and targets (N, T), int64, targets -1 where nothing is scored; further arrays, rows first."""

    tokens_NT: Whole
    targets_NT: Whole
    extra: dict[str, NDArray[Any]]


class Task(Protocol):
    """What an instance is, and how it becomes a row. A source makes it of its options.

    vocabulary: number of token ids.
    """

    @property
    def vocabulary(self) -> int: ...

    def check(self, context: int) -> None:
        """Raises DataError, at the option or at `data.context`, where a row of `context` tokens cannot be."""

    def draw(self, random: Draws, context: int) -> Content:
        """The content of N candidates: arrays, rows first. Few numbers, because most candidates may be dropped."""

    def instance(self, content: Content) -> Whole:
        """(N, K): what decides the split. It must be seen in the row, so that equal rows are in the same split."""

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The rows with this content. Anything else in them (noise, places) is drawn from `random`."""


class Listed(Task, Protocol):
    """A task that may have few instances."""

    def all(self, context: int) -> Content | None:
        """The content of every instance, at most FEW; None where there are more."""


class Few(NamedTuple):
    """Every instance of a task. splits: {split: indices in `every`, in a random order}."""

    every: Content
    splits: dict[str, Whole]


@dataclass(frozen=True, eq=False)
class Generated:
    """The Dataset of a task.

    source: the type of its source. options: all that decides its rows beside the task's code, as plain data.
    tokenizer: None where there is no text. about: further plain data for a run's record.
    """

    task: Task
    source: str
    options: dict[str, Any]
    tokenizer: tokenizers.Tokenizer | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """A digest (hex) of the source, every option, and the rule of the splits."""
        return digest({"format": FORMAT, "source": self.source, "options": self.options, "fractions": FRACTIONS})

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return self.task.vocabulary

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The Batch (`rows`, `context`) of step `step` (from 0): a pure function of the arguments. Raises DataError."""
        return self.numbered(split, place(seed) + step * rows + np.arange(rows), context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields Batches of at most `batch_rows` rows, `rows` in total: the same for every arm and every seed.

        Of a task with few instances each is read once: if the split has fewer than `rows`, all of them. Raises DataError.
        """
        few = self._few(context)
        numbers_N = np.arange(rows if few is None else min(rows, len(few.splits[split])))
        for first in range(0, len(numbers_N), batch_rows):
            yield self.numbered(split, numbers_N[first : first + batch_rows], context)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> Whole:
        """The numbers of all rows that `steps` steps read, ascending: (N,)."""
        return place(seed) + np.arange(steps * rows)

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """The rows with these numbers. Raises DataError."""
        self.task.check(context)
        number_N = np.asarray(numbers, dtype=np.int64)
        parts = [self._rows(split, number_N[first : first + CHUNK], context) for first in range(0, len(number_N), CHUNK)]
        tokens_BT, targets_BT = (_tensor(np.concatenate([part[i] for part in parts])) for i in (0, 1))
        extra = {name: _tensor(np.concatenate([part.extra[name] for part in parts])) for name in parts[0].extra}
        return Batch.text(Rows(tokens_BT, TokenLayout.whole(*tokens_BT.shape), targets_BT, _tensor(number_N), extra))

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record."""
        return {"fingerprint": self.fingerprint, "source": self.source, "vocabulary": self.vocabulary, **self.about}

    def check(self, context: int) -> None:
        """Raises DataError where a row of `context` tokens cannot be, or where a split has no instance."""
        self.task.check(context)
        if (few := self._few(context)) is not None:
            for split, index_K in few.splits.items():
                if not len(index_K):
                    raise DataError(f"{_counted(few.splits)}: none is left for the {split} split; expected a larger task")
        for split in SPLITS:
            self.numbered(split, [0], context)

    def _few(self, context: int) -> Few | None:
        """The instances of a task with few of them; None for a task with many."""
        if context not in self._lists:
            listed = getattr(self.task, "all", None)
            every = listed(context) if listed else None
            self._lists[context] = None if every is None else self._listed(every)
        return self._lists[context]

    def _listed(self, every: Content) -> Few:
        hash_K = hashed(self.task.instance(every))
        order_K, split_K = hash_K.argsort(), _splits(hash_K)
        return Few(every, {split: order_K[split_K[order_K] == i] for i, split in enumerate(SPLITS)})

    @cached_property
    def _lists(self) -> dict[int, Few | None]:
        return {}

    def _rows(self, split: str, number_N: Whole, context: int) -> Filled:
        key_N = mixed(number_N.astype(np.uint64) + numbered_key(SPLITS.index(split)))
        few = self._few(context)
        if few is None:
            content, key_N = self._drawn(split, key_N, context)
        else:
            index_K = few.splits[split]
            once_N = number_N < len(index_K)  # an evaluation reads each instance once; training draws them
            chosen_N = np.where(once_N, number_N, (share(mixed(key_N)) * len(index_K)).astype(np.int64))
            content = {name: array[index_K[chosen_N]] for name, array in few.every.items()}
        return self.task.fill(content, Draws(mixed(key_N ^ GOLDEN), split), context)

    def _drawn(self, split: str, key_N: Bits, context: int) -> tuple[Content, Bits]:
        """The first candidate of each row that is of the split: its content, and its key."""
        wanted, at_once = SPLITS.index(split), int(np.ceil(1.5 / FRACTIONS[split]))
        open_N, taken, found = np.arange(len(key_N)), 0, []
        random = Draws(key_N)
        while len(open_N):
            if taken > PATIENCE:
                raise DataError(f"no instance of the {split} split was found in {taken:,} draws; expected a larger task")
            tried_NK = random.bits(at_once)[open_N]
            candidates = self.task.draw(Draws(tried_NK.flatten(), split), context)
            fits_NK = (_splits(hashed(self.task.instance(candidates))) == wanted).reshape(tried_NK.shape)
            done_N, first_N = fits_NK.any(1), fits_NK.argmax(1)
            index_N = (np.arange(len(open_N)) * at_once + first_N)[done_N]
            parts = {name: array[index_N] for name, array in candidates.items()}
            found.append((open_N[done_N], parts, tried_NK.flatten()[index_N]))
            open_N, taken = open_N[~done_N], taken + at_once
        order_N = np.concatenate([rows_N for rows_N, _, _ in found]).argsort()
        content = {name: np.concatenate([parts[name] for _, parts, _ in found])[order_N] for name in found[0][1]}
        return content, np.concatenate([keys_N for _, _, keys_N in found])[order_N]


def generated(task: Task, source: str, config: Any, context: int, **more: Any) -> Generated:
    """The Generated dataset of a task, checked for rows of `context` tokens. Raises DataError.

    config: the source's options, all of which are in the fingerprint. more: further fields of Generated.
    """
    dataset = Generated(task, source, config.dump(), **more)
    dataset.check(context)
    return dataset


def _splits(hash_N: Bits) -> Whole:
    """The index in SPLITS of each instance, from its hash."""
    return np.searchsorted(np.cumsum(list(FRACTIONS.values()))[:-1], share(hash_N), side="right")


def place(seed: int) -> int:
    """The number of the first row that a seed reads."""
    return TRAINING + (int(numbered_key(seed)) >> 2)


def _counted(few: dict[str, Whole]) -> str:
    count = sum(map(len, few.values()))
    return "the task has one instance" if count == 1 else f"the task has {count:,} instances"


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
