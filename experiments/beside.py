"""A second model that an evaluator measures in turns with the run's own: the same spec under a few overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from arch import cost, registry
from arch.document import Node, node, overridden
from arch.errors import SpecError
from arch.model_spec import ModelSpec

if TYPE_CHECKING:
    from arch.model import Model


def respecified(spec: ModelSpec, overrides: Mapping[str, Any]) -> ModelSpec:
    """The resolved ModelSpec with dotted overrides. Raises SpecError where there can be no such model."""
    root = overridden(node(spec.dump()), Node({key: node(value) for key, value in overrides.items()}))
    other = registry.resolve(ModelSpec.parse(root), root)
    cost.check_builds(other, root)
    return other


def specs(spec: ModelSpec, overrides: Mapping[str, Any]) -> list[ModelSpec]:
    """The spec, and that under the overrides if there are any."""
    return [spec, respecified(spec, overrides)] if overrides else [spec]


def check(spec: ModelSpec, overrides: Mapping[str, Any]) -> None:
    """Raises SpecError, at a key of the option `beside`, for overrides of which there is no model."""
    try:
        respecified(spec, overrides)
    except SpecError as error:
        key = next((key for key in overrides if error.path[: len(parts := key.split("."))] == tuple(parts)), None)
        raise SpecError(error.reason, ("beside", *([] if key is None else [key]))) from None


def model_of(model: Model, overrides: Mapping[str, Any], seed: int) -> Model:
    """The Model under the overrides, with initial weights of the seed, where `model` is and in its type.

    For what does not depend on the values of weights, such as a time.
    """
    from arch.model import new_model

    other = new_model(respecified(model.spec, overrides), seed)
    return other.to(model.embedding.device, model.embedding.dtype).train(model.training)
