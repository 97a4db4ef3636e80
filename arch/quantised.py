"""The weights that a model with `quantise` computes with: rounded, with a gradient that goes straight through to the float weight.

The float weights stay the model's parameters: they are trained, stored and exported, and each knows by its name which role of
`QuantiseSpec` it has. What is computed with is made of them once for a forward pass, however often it is used, and kept while
nothing changes: until the gradient has come back through it; without a gradient, until the weight changes.

Shapes: N output channels, D inputs of a matrix.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from arch import registry
from arch.linear import Linear
from arch.model_spec import ROLES, SUBLAYER_NAME, ModelSpec


class FakeQuantised:
    """A weight's rounded values, by a quantiser, in the weight's own type: `self(weight)`.

    Optimizers leave no trace in a weight where they are fused. So what is made without a gradient is forgotten as soon as a
    pass with one is made, which comes before each step.
    """

    def __init__(self, quantiser: Any):
        self.quantiser = quantiser
        self.kept: tuple[Any, Tensor] | None = None  # (what it was made of, the values)

    def __call__(self, weight: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and weight.requires_grad
        made_of = trains, id(weight), weight.data_ptr(), weight.dtype, _version(weight)
        if self.kept is None or self.kept[0] != made_of:
            if trains:
                values = _StraightThrough.apply(weight, self)
            else:
                with torch.inference_mode(False), torch.no_grad():  # a later pass may be outside of it
                    values = self.values(weight)
            self.kept = made_of, values
        return self.kept[1]

    def values(self, weight: Tensor) -> Tensor:
        """The rounded values of a matrix, without a gradient."""
        return self.quantiser.rounded(weight.detach()).to(weight.dtype)

    def __getstate__(self):
        return {"quantiser": self.quantiser, "kept": None}  # copies of a model make their own


class _StraightThrough(torch.autograd.Function):
    """The rounded weight; its gradient is the weight's, but for what the quantiser calls clipped."""

    @staticmethod
    def forward(ctx, weight, fake):
        ctx.fake, ctx.clipped_ND = fake, fake.quantiser.clipped(weight.detach())
        return fake.values(weight)

    @staticmethod
    def backward(ctx, grad_ND):
        ctx.fake.kept = None
        return grad_ND if ctx.clipped_ND is None else grad_ND.masked_fill(ctx.clipped_ND, 0.0), None


def _version(weight):
    return 0 if weight.is_inference() else weight._version


def role(name: str, weight: nn.Parameter) -> str | None:
    """The role of a model's parameter in `QuantiseSpec`; None for one that is never quantised."""
    kind: Any = weight
    if kind.kind == "embedding":
        return "embedding"
    if kind.kind != "matrix" or kind.recurrent:
        return None
    if name.startswith("vision."):
        return "vision"
    layer = SUBLAYER_NAME.fullmatch(name)
    return "attention" if layer and layer[2] == "mixer" else "matrix"


def attach(model: Any) -> None:
    """Let every weight of each quantised role be used rounded. Raises ValueError, `ROLE: reason`, for one that cannot be."""
    spec = model.spec.quantise
    quantisers = {name: registry.build("quantiser", component) for name, component in spec.roles().items()}
    found = dict.fromkeys(quantisers, False)
    for owner, name, its_role, weight in weights(model):
        if its_role not in quantisers:
            continue
        found[its_role], quantiser = True, quantisers[its_role]
        if owner is not model and type(owner) is not Linear:
            raise ValueError(f"{its_role}: {name} is no `Linear` of arch.layers, and only their weights can be quantised")
        if weight.shape[-1] % quantiser.multiple:
            kind, width = spec.roles()[its_role]["type"], weight.shape[-1]
            raise ValueError(
                f"{its_role}: {kind} needs rows of a multiple of {quantiser.multiple} values, and those of {name} have {width:,}"
            )
        owner.fake = FakeQuantised(quantiser)
    for its_role, is_there in found.items():
        if not is_there:
            raise ValueError(f"{its_role}: the model has no such weights")


def weights(model: nn.Module) -> Iterator[tuple[Any, str, str, nn.Parameter]]:
    """(the module that owns it, its name, its role, the weight) of every parameter that has a role."""
    for prefix, owner in model.named_modules():
        for name, weight in owner.named_parameters(prefix, recurse=False):
            if (its_role := role(name, weight)) is not None:
                yield owner, name, its_role, weight


def shapes(spec: ModelSpec) -> dict[str, list[tuple[int, int]]]:
    """{role: [(rows, width) of each of its matrices]}, and under "" the numbers of values of the other parameters, as (n, 1)."""
    from arch.model import Model

    with torch.device("meta"):
        model = Model(spec.model_copy(update={"quantise": None}))
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in ("", *ROLES)}
    for name, weight in model.named_parameters():
        its_role = role(name, weight)
        found[its_role or ""].append((weight.numel() // weight.shape[-1], weight.shape[-1]) if its_role else (weight.numel(), 1))
    return found


def count(spec: ModelSpec) -> int:
    """How many weights of a resolved ModelSpec are rounded."""
    roles, found = spec.quantise.roles() if spec.quantise else {}, shapes(spec)
    return sum(rows * width for name in roles for rows, width in found[name])


def check(spec: ModelSpec, root: Any, path: tuple[str, ...] = ()) -> None:
    """Raises SpecError at the role's key in the document `root`, where the model is at `path`, for what cannot be quantised."""
    from arch.model import Model

    if spec.quantise is None:
        return
    try:
        with torch.device("meta"):
            Model(spec)
    except ValueError as error:
        its_role, colon, reason = str(error).partition(": ")
        if its_role not in spec.quantise.roles() or not colon:
            raise
        raise root.error(reason, (*path, "quantise", its_role)) from None
