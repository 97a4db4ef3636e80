"""How a run computes in bfloat16, or with rounded factors: on a CPU by `arch.kernels.products`, elsewhere by torch's autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from arch.kernels import products
from experiments.spec import TrainSpec


def is_ours(spec: TrainSpec) -> bool:
    """Whether `arch.kernels.products` does what the precision says, and not a plugin of Lightning's."""
    return spec.accelerator == "cpu" and (spec.precision == "bf16-mixed" or spec.products == "bf16")


def is_mixed(spec: TrainSpec) -> bool:
    """Whether float32 weights compute in bfloat16 by `products.casting`, which decides the memory of a step."""
    return is_ours(spec) and spec.precision == "bf16-mixed"


def scope(spec: TrainSpec) -> AbstractContextManager[Any]:
    """The context in which a step, an evaluation or a teacher computes, for weights of the type that `spec.precision` says."""
    if is_ours(spec):
        return products.casting() if spec.precision == "bf16-mixed" else products.rounded()
    if spec.precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast("cuda" if spec.accelerator == "gpu" else spec.accelerator, torch.bfloat16)


def plugin(spec: TrainSpec) -> Any:
    """Lightning's plugin for `is_ours`, else None. The model stays as it is in memory and on disk."""
    from pytorch_lightning.plugins.precision import Precision

    class OnCPU(Precision):
        precision: Any = spec.precision

        @contextmanager
        def forward_context(self) -> Iterator[None]:
            with scope(spec):
                yield

    return OnCPU() if is_ours(spec) else None


def path(spec: TrainSpec) -> dict[str, str]:
    """{"bfloat16 products": how this machine computes them}, for a record; empty where there are none on a CPU."""
    if spec.accelerator != "cpu" or (spec.precision == "32-true" and spec.products == "exact"):
        return {}
    return {"bfloat16 products": products.path(of_float32=spec.products == "bf16")}
