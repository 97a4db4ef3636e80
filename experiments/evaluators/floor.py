"""How far a loss is above the lowest that any model can have on the same rows.

Shapes: B rows, T tokens.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.kernels.cross_entropy import cross_entropies
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import split_rows


@evaluator
class Floor:
    """The loss against its floor, for data whose true distribution is known (known_entropy).

    floor: the mean of -log p(target) under the true distribution, on these very rows. excess: the model's loss minus the
    floor, an unbiased estimate of KL(truth || model) per target. excess_share: the excess over the floor.
    """

    class Config(Spec):
        """rows: how many. context: tokens per row, by default `data.context`."""

        rows: Count = 256
        context: Annotated[int, Field(ge=2)] | None = None

    needs = frozenset({"causal", "exact"})
    metrics = {
        "floor": Metric(unit="nats per token", better="neither"),
        "excess": Metric(unit="nats per token"),
        "excess_share": Metric(),
    }
    charts = (
        Chart(
            kind="curve",
            x="position",
            y="nats",
            by="of",
            title="Loss and its floor by position",
            labels={"position": "position in the row (at least)", "nats": "nats per token"},
            log=("position",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of this context."""
        split_rows.check(dataset, split, self.config.context)

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The three numbers, and a table of the model's nats and the true ones by position (in octaves: 1, 2, 4, ...)."""
        context = self.config.context or given.context
        sums_KT = np.zeros((3, context))  # targets, nats of the model, true nats
        for batch in split_rows.read(dataset, given, self.config.rows, context):
            part = batch["text"]
            assert part.targets_BT is not None
            hidden_BTD, _ = model.trunk(part.tokens_BT, part.layout)
            inputs = hidden_BTD.flatten(0, 1), model.head_weight, part.targets_BT.flatten(), model.spec.logit_softcap
            nats_BT = cross_entropies(*inputs).view_as(part.targets_BT)
            for k, numbers_BT in enumerate((part.targets_BT >= 0, nats_BT, part.extra["nats"])):
                sums_KT[k] += numbers_BT.cpu().numpy().sum(0, dtype=np.float64)
        targets, nats, true = sums_KT.sum(1)
        floor, excess = true / targets, (nats - true) / targets
        values = {"floor": floor, "excess": excess} | ({"excess_share": excess / floor} if floor else {})
        return Findings({name: float(value) for name, value in values.items()}, _by_position(sums_KT))


def _by_position(sums_KT: Any) -> list[dict[str, Any]]:
    octave_T = 2 ** np.log2(np.arange(1, sums_KT.shape[1] + 1)).astype(np.int64)
    parts = [(int(first), sums_KT[:, octave_T == first].sum(1)) for first in np.unique(octave_T)]
    return [
        {"of": of, "position": first, "nats": float(sums_K[k] / sums_K[0])}
        for k, of in ((1, "model"), (2, "floor"))
        for first, sums_K in parts
        if sums_K[0]
    ]
