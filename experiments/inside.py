"""Looking inside a model while it reads rows of a split: what evaluators share that watch its modules.

Shapes: B rows, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from arch.contracts import Dataset, Given
from arch.errors import DataError, SpecError
from arch.model import Model
from experiments.data.batch import Rows


def read(dataset: Dataset, given: Given, rows: int, context: int | None) -> Iterator[Rows]:
    """Yields `rows` rows of the split, of every kind that its batches have, on the device, as many at once as in training.

    context: tokens per row; None for those of training.
    """
    tokens = context or given.context
    for batch in dataset.evaluation(given.split, rows, tokens, max(1, given.rows * given.context // tokens)):
        yield from batch.to(given.device).values()


def check_context(dataset: Dataset, split: str, context: int | None) -> None:
    """Raises SpecError at the key `context` where the split has no row of so many tokens."""
    if context is None:
        return
    try:
        next(iter(dataset.evaluation(split, 1, context, 1)))
    except DataError as error:
        raise SpecError(str(error), ("context",)) from None


@contextmanager
def removed(hooks: Iterable[Any]) -> Iterator[None]:
    """Context manager: these hooks are removed at its end."""
    kept = list(hooks)
    try:
        yield
    finally:
        for hook in kept:
            hook.remove()


def mixers(model: Model, method: str) -> dict[int, nn.Module]:
    """{layer: its mixer} of the layers whose mixer has this method."""
    blocks: Any = model.blocks
    found = {layer: block.mixer.component for layer, block in enumerate(blocks) if block.mixer is not None}
    return {layer: mixer for layer, mixer in found.items() if hasattr(mixer, method)}


def watched(model: Model, method: str, see: Callable[[int, Any, Any], None]) -> list[Any]:
    """Hooks on the mixers with this method: whenever one runs, `see(layer, method(x_BTD, layout), layout)`."""

    def hook(layer):
        def before(mixer, args):
            x_BTD, layout = args[:2]
            see(layer, getattr(mixer, method)(x_BTD, layout), layout)

        return before

    return [mixer.register_forward_pre_hook(hook(layer)) for layer, mixer in mixers(model, method).items()]
