"""Parameters: the two facts that each carries, and the values that it starts from."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arch.model_spec import Initialiser, InitSpec

Draw = Callable[[Tensor, torch.Generator], Any]  # fills a float32 tensor in place with values from the generator


@dataclass(frozen=True)
class Context:
    """A component's place in the model: model width, layer index, number of layers, norm epsilon, initialisation.

    source_dim: the width of the encoder's states beside this stack; None where there is no encoder.
    """

    dim: int
    layer: int = 0
    layers: int = 1
    norm_eps: float = 1e-6
    init: InitSpec = InitSpec()  # noqa: RUF009  frozen
    source_dim: int | None = None


KINDS = ("embedding", "matrix", "vector")


def parameter(shape: Sequence[int], kind: str, draw: Draw, recurrent: bool = False) -> nn.Parameter:
    """An empty parameter with its initialiser `draw(tensor, generator)` and two facts, for costs, optimizers, quantisers.

    kind: what it is. An `embedding` is looked up; a `matrix`, or a stack of them, maps every token; a `vector` acts
    channel by channel. recurrent: whether it decides how a state decays or what enters it. Such weights are trained
    with more care, whatever their kind: AdamW does not decay them. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a parameter is one of {', '.join(KINDS)}, not {kind!r} (`recurrent=True` is a fact beside its kind)")
    made: Any = nn.Parameter(torch.empty(shape))
    made.kind, made.recurrent, made.draw = kind, recurrent, draw
    return made


def constant(value: float) -> Draw:
    """An initialiser that sets every value to `value`."""
    return lambda tensor, generator: tensor.fill_(value)


def normal(std: float) -> Draw:
    """An initialiser that draws from N(0, std^2)."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def drawn(initialiser: Initialiser, fan_in: int, layers: int) -> Draw:
    """The function that an `Initialiser` describes, for a map with `fan_in` inputs in a model of `layers` layers."""
    variance = {"fan_in": 1 / fan_in, "depth_scaled": 2 / layers / fan_in}
    return normal(math.sqrt(variance[initialiser.type]) if initialiser.std is None else initialiser.std)


def fan_in(inputs: int, stack: int, context: Context) -> int:
    """The fan-in with which one of `stack` matrices is initialised (see `InitSpec.stacked`)."""
    return inputs * (stack if context.init.stacked == "jax" else 1)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Initialise every parameter of `model` in place.

    The values are a pure function of (seed, parameter name, shape). Two models that share a parameter therefore start
    from the same values (common random numbers).
    """
    weight: Any
    for name, weight in model.named_parameters():
        key = f"{seed}/{name}/{tuple(weight.shape)}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
        value = torch.empty(weight.shape, dtype=torch.float32)
        weight.draw(value, generator)
        weight.copy_(value)
