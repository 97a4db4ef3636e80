"""Looking inside a model while it runs: what evaluators share that watch its modules."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from arch.model import Model
from experiments.data.batch import Batch


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


def looked(model: Model, method: str, batches: Iterable[Batch], make: Callable[[], Any]) -> dict[int, Any]:
    """{layer: make()} of the mixers with this method, after `add(method(x_BTD, layout), layout)` for all rows of the batches."""
    layers = {layer: make() for layer in mixers(model, method)}
    with removed(watched(model, method, lambda layer, shown, layout: layers[layer].add(shown, layout))):
        for batch in batches:
            for rows in batch.values():
                model.trunk(rows.tokens_BT, rows.layout)
    return layers
