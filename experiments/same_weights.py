"""The same weights under another model spec: a window, a rotary scale or a softcap that training did not have."""

from collections.abc import Mapping
from typing import Any

import torch

from arch.errors import SpecError
from arch.model import Model
from arch.model_spec import ModelSpec
from experiments.beside import respecified


def changed(spec: ModelSpec, overrides: Mapping[str, Any]) -> ModelSpec:
    """The resolved ModelSpec with dotted overrides, into which the weights of `spec` fit.

    Raises SpecError whose path begins with the dotted key, for a key or a value that the spec cannot have, for parameters
    that do not fit, and for a model that is causal no longer.
    """
    try:
        return _changed(spec, overrides)
    except SpecError as error:
        for key, value in overrides.items():  # which of them is it?
            try:
                _changed(spec, {key: value})
            except SpecError as alone:
                parts = tuple(key.split("."))
                below = alone.path[len(parts) :] if alone.path[: len(parts)] == parts else ()
                raise SpecError(alone.reason, (key, *below)) from None
        raise SpecError(error.reason) from None  # each may be set, but not all together


def _changed(spec, overrides):
    other = respecified(spec, overrides)
    held, wanted = _shapes(spec), _shapes(other)
    for name in wanted:
        if name not in held:
            raise SpecError(f"the weights do not fit: there is no {name}")
        if wanted[name] != held[name]:
            raise SpecError(f"the weights do not fit: {name} is {held[name]}, and this needs {wanted[name]}")
    if unused := [name for name in held if name not in wanted]:
        raise SpecError(f"the weights do not fit: {unused[0]} would not be used")
    if _causal(spec) and not _causal(other):
        raise SpecError("the model is causal, and with this it sees later tokens")
    return other


def model_of(model: Model, spec: ModelSpec) -> Model:
    """The Model of a spec from `changed` with the parameters of `model`: the same tensors, not copies."""
    other: Any = Model(spec).to(model.embedding.device).train(model.training)
    for name, weight in model.named_parameters():
        owner, _, last = name.rpartition(".")
        setattr(other.get_submodule(owner), last, weight)
    return other


def _shapes(spec):
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Model(spec).named_parameters()}


def _causal(spec):
    with torch.device("meta"):
        blocks: Any = Model(spec).blocks
    return all(block.mixer is None or block.mixer.component.causal for block in blocks)
