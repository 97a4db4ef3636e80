"""What it costs to read and write the rows of a run with other models, beside the training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arch.model_spec import ModelSpec
from arch.plugins import plugin_sources
from experiments import costs


def of(spec: Any, passes: Sequence[ModelSpec]) -> dict[str, float]:
    """{flops} of a forward pass of each of these models over every row of a run's steps; a model may come several times.

    A token that is written costs about what one that is read costs; what is written is shorter than a row, so this is the most.
    """
    context = spec.data.context
    each = [costs.summary(model, context, plugin_sources(model.dump()))["flops_per_token"]["ideal"]["prefill"] for model in passes]
    return {"flops": float(sum(each)) * spec.tokens}
