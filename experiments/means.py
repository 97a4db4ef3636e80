"""Adding up what an objective returns, over micro-batches and batches."""

import math

from arch.contracts import Mean, Objective
from arch.model import Model
from experiments.data.batch import Batch


class Means:
    """Sums and weights of an objective's metrics over all batches that were added."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self.totals: dict[str, Mean] = {}

    def add(self, model: Model, batch: Batch) -> None:
        """Prepare a batch, call the objective on it, and add its means."""
        self.include(self.objective.forward(model, prepared(self.objective, model, batch)))

    def include(self, means: dict[str, Mean]) -> None:
        """Add means that were computed already, without their graph."""
        for name, mean in means.items():
            earlier = self.totals.get(name)
            total, weight = mean.sum.detach(), mean.weight
            self.totals[name] = Mean(total, weight) if earlier is None else Mean(earlier.sum + total, earlier.weight + weight)

    def values(self, empty: float = math.nan) -> dict[str, float]:
        """{metric: number} of everything added, with the metrics that the objective derives from its means.

        empty: the value of a metric without any weight, such as a loss where no position has a target.
        """
        weights = {name: float(mean.weight) for name, mean in self.totals.items()}
        values = {name: float(mean.sum) / weights[name] if weights[name] else empty for name, mean in self.totals.items()}
        derive = getattr(self.objective, "derive", None)
        return derive(values) if derive else values


def prepared(objective: Objective, model: Model, batch: Batch) -> Batch:
    """The batch after the objective's `prepare`, if it has one."""
    prepare = getattr(objective, "prepare", None)
    return prepare(model, batch) if prepare else batch
