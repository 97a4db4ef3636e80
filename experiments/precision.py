"""How Lightning makes a run on a CPU compute in bfloat16, or with rounded factors: by `arch.kernels.products`.

On other devices Lightning's own plugins do it, by torch's autocast.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.plugins.precision import Precision

from arch.kernels import products
from experiments.spec import TrainSpec


class OnCPU(Precision):
    """`bf16-mixed`: bfloat16 between float32 weights. `products: bf16`: float32 but for the factors of matrix products.

    The model stays as it is in memory and on disk. What is computed within `forward_context` is computed so: a training step, an
    evaluation, a teacher.
    """

    def __init__(self, spec: TrainSpec):
        self.precision = spec.precision
        self.scope = products.casting if spec.precision == "bf16-mixed" else products.rounded

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        with self.scope():
            yield


def plugin(spec: TrainSpec) -> OnCPU | None:
    """The plugin for a TrainSpec; None where Lightning's own for `spec.precision` is meant."""
    return OnCPU(spec) if spec.accelerator == "cpu" and (spec.precision == "bf16-mixed" or spec.products == "bf16") else None


def path(spec: TrainSpec) -> dict[str, str]:
    """{"bfloat16 products": how this machine computes them}, for a record; empty where there are none on a CPU."""
    if spec.accelerator != "cpu" or (spec.precision == "32-true" and spec.products == "exact"):
        return {}
    return {"bfloat16 products": products.path(of_float32=spec.products == "bf16")}
