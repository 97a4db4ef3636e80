"""Rows of a split, as evaluators read them: as many tokens at once as in training, on the device."""

from collections.abc import Iterator

from arch.contracts import Dataset, Given
from arch.errors import DataError, SpecError
from experiments.data.batch import Batch


def read(dataset: Dataset, given: Given, rows: int, context: int | None) -> Iterator[Batch]:
    """Yields `rows` rows of the split in batches; all of them if the split has fewer.

    context: tokens per row; None for those of training.
    """
    tokens = context or given.context
    for batch in dataset.evaluation(given.split, rows, tokens, batch_rows(given, tokens)):
        yield batch.to(given.device)


def batch_rows(given: Given, tokens: int) -> int:
    """Rows of so many tokens per batch, so that a batch has as many tokens as one of training, or is one row."""
    return max(1, given.rows * given.context // tokens)


def check(dataset: Dataset, split: str, context: int | None, key: str = "context") -> None:
    """Raises SpecError at this key of the config where the split has no row of so many tokens."""
    if context is None:
        return
    try:
        next(iter(dataset.evaluation(split, 1, context, 1)))
    except DataError as error:
        raise SpecError(str(error), (key,)) from None
