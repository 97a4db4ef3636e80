"""How much of a gradient bfloat16 changes, and where in the model.

Shapes: those of the parameters.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from arch.contracts import Dataset, Findings, Given, Metric
from arch.kernels import products
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import split_rows
from experiments.means import prepared


@evaluator
class Gradients:
    """The gradient of the objective's loss over some rows, in each bfloat16 precision, against that in float32.

    An error is |g' - g| / |g| of the gradients g of some parameters together, after as many rows as are given, in one step. A
    gradient of noise has the same error whatever its size; so a part of the model whose error stands out is one that bfloat16
    harms. `products` rounds the factors of matrix products (`train.products: bf16`), `mixed` also what flows between them
    (`train.precision: bf16-mixed`). The weights are float32 in all of them. The table has a row per kind of block and per kind of
    parameter in it, the mean over its layers and the largest.
    """

    class Config(Spec):
        """rows: how many of the split; all of them if it has fewer."""

        rows: Count = 8

    reads_images = True  # as the objective does
    metrics = {
        "gradient_error_products": Metric(better="lower", compare="ratio"),
        "gradient_error_mixed": Metric(better="lower", compare="ratio"),
        "loss_change_products": Metric(better="neither"),
        "loss_change_mixed": Metric(better="neither"),
    }

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """`gradient_error_*` of all parameters together; `loss_change_*`: the loss per target, minus that in float32."""
        own = copy.deepcopy(model).float()
        batches = list(split_rows.read(dataset, given, self.config.rows, None))
        with products.exact():
            loss, exact = _pass(own, given, batches)
            passes = {kind: _pass(own, given, batches, scope) for kind, scope in _scopes(own).items()}
        values: dict[str, float] = {}
        parts: dict[tuple[str, str], dict[str, list[float]]] = {}
        for kind, (its_loss, gradients) in passes.items():
            values[f"loss_change_{kind}"] = its_loss - loss
            values[f"gradient_error_{kind}"] = _error(gradients.values(), exact.values())
            for name in exact:
                place = _place(name, own.spec.layer_blocks())
                errors = parts.setdefault(place, {}).setdefault(kind, [])
                errors.append(_error([gradients[name]], [exact[name]]))
        table: list[dict[str, Any]] = [
            {"block": block, "parameter": parameter}
            | {f"{kind}{which}": choose(errors) for kind, errors in each.items() for which, choose in CHOSEN.items()}
            for (block, parameter), each in parts.items()
        ]
        return Findings(values, table)


Scope = Callable[[], AbstractContextManager[Any]]
CHOSEN: dict[str, Callable[[list[float]], float]] = {"": lambda errors: sum(errors) / len(errors), " largest": max}


def _scopes(model: Model) -> dict[str, Scope]:
    if model.embedding.is_cpu:
        return {"products": products.rounded, "mixed": products.casting}
    return {"mixed": partial(torch.autocast, model.embedding.device.type, torch.bfloat16)}


def _pass(model: Model, given: Given, batches: list[Any], scope: Scope = nullcontext) -> tuple[float, dict[str, Tensor]]:
    """(the loss per target, {parameter: gradient in float32})"""
    weight, total = max(1.0, sum(float(batch.weight) for batch in batches)), 0.0
    model.zero_grad()
    with torch.enable_grad(), scope():
        for batch in batches:
            with torch.no_grad():
                ready = prepared(given.objective, model, batch)
            loss = given.objective(model, ready)["loss"].sum / weight
            loss.backward()
            total += float(loss.detach())
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return total, gradients


def _error(gradients: Any, exact: Any) -> float:
    apart = sum(float((one.double() - other.double()).square().sum()) for one, other in zip(gradients, exact, strict=True))
    size = sum(float(each.double().square().sum()) for each in exact)
    return (apart / size) ** 0.5 if size else 0.0


def _place(name: str, blocks: list[str]) -> tuple[str, str]:
    """(the kind of block, the kind of parameter): `recurrent`, `mixer.decay` of `blocks.3.mixer.component.decay`."""
    words = name.split(".")
    if words[0] != "blocks":
        return "", name
    return blocks[int(words[1])], ".".join(word for word in words[2:] if word != "component")
