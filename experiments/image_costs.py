"""What the images of a run's rows cost beside its tokens: exact counts, before any run.

Shapes: T tokens per row.
"""

from __future__ import annotations

from typing import Any

import torch

from arch import cost, registry
from arch.model import Model
from arch.model_spec import ModelSpec


def flops(spec: Any) -> float:
    """Ideal FLOPs that images add to all steps of a resolved ExperimentSpec: of the tower, and of tokens that see later ones.

    0 for data without images.
    """
    image_1T = _image_1T(spec)
    if image_1T is None:
        return 0.0
    return float(spec.data.rows * spec.train.steps * of_row(spec.model, image_1T))


def of_row(model: ModelSpec, image_1T: torch.Tensor) -> int:
    """The same of one row in one step. image_1T: which image each of its tokens is of (`TokenLayout.image_BT`)."""
    return 3 * cost.looking_ahead(model, image_1T) + _count(image_1T) * _tower(model)["flops_per_image"]["train"]


def with_images(summary: dict[str, Any], spec: Any) -> dict[str, Any]:
    """A cost summary of the run's model, whose training memory has the images of one row, as `images`, if its data have some."""
    image_1T = _image_1T(spec)
    if image_1T is None:
        return summary
    training = summary["training_bytes"]
    kept = _count(image_1T) * summary["vision"]["activations"]
    return {**summary, "training_bytes": {**training, "images": kept, "total": training["total"] + kept}}


def _image_1T(spec):
    source = registry.component("source", spec.data.source["type"])
    if spec.model.vision is None or not getattr(source, "images", False):
        return None
    return registry.build("source", spec.data.source).image_places(spec.data.context)


def _count(image_1T):
    return int(image_1T.max()) + 1


def _tower(model: ModelSpec) -> dict[str, Any]:
    with torch.device("meta"):
        return cost.images(Model(model.model_copy(update={"layers": 1, "quantise": None})))
