"""Adding up what an objective returns, over micro-batches and batches; also document by document.

Shapes: B rows, T tokens, N documents.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from arch.contracts import Documents, Mean, Objective
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
        return _values(self.objective, {name: (float(mean.sum), float(mean.weight)) for name, mean in self.totals.items()}, empty)


class ByDocument:
    """Sums and weights of an objective's metrics for each document, over all batches that were added.

    names: of all documents of the split (`Dataset.documents`). Batches come from `Dataset.evaluation`.
    """

    def __init__(self, objective: Objective, names: Sequence[str]):
        self.objective = objective
        # Equal texts are one document: the second adds nothing that was not seen.
        self.names, self.number_N = np.unique(np.asarray(names, dtype=str), return_inverse=True)
        self.totals: dict[str, np.ndarray] = {}  # {mean: (2, documents): sums and weights, in float64}

    def add(self, model: Model, batch: Batch) -> None:
        """Prepare a batch, ask the objective for its means by position, and add them to their documents."""
        batch = prepared(self.objective, model, batch)
        document_BT = batch["text"].document_BT
        assert document_BT is not None, "a dataset with `documents` says in `evaluation` which document each token is of"
        number = self.number_N[document_BT.flatten().cpu().numpy()]
        for name, mean in self.objective.by_position(model, batch).items():
            parts = (torch.as_tensor(part).detach().flatten().cpu().double().numpy() for part in mean)
            added = np.stack([np.bincount(number, part, len(self.names)) for part in parts])
            self.totals[name] = self.totals.get(name, 0) + added

    def values(self) -> dict[str, float]:
        """As `Means.values`: {metric: number} of all documents together."""
        return _values(self.objective, {name: (both[0].sum(), both[1].sum()) for name, both in self.totals.items()})

    def documents(self) -> Documents | None:
        """What was measured of each document that has any weight; None where a sum is not finite."""
        if not all(np.isfinite(both).all() for both in self.totals.values()):
            return None
        measured = np.any([weights > 0 for _, weights in self.totals.values()], axis=0)
        parts = {name: both[:, measured] for name, both in self.totals.items()}
        rest = {name: both.sum(1, keepdims=True) - both for name, both in parts.items()}
        others = [_values(self.objective, {name: tuple(both[:, i]) for name, both in rest.items()}) for i in range(measured.sum())]
        without = {name: [each[name] for each in others] for name in (others[0] if others else ())}
        return Documents(
            names=self.names[measured].tolist(),
            sums={name: sums.tolist() for name, (sums, _) in parts.items()},
            weights={name: weights.tolist() for name, (_, weights) in parts.items()},
            without={name: each for name, each in without.items() if np.isfinite(each).all()},
        )


def _values(objective, totals, empty=math.nan):
    """{metric: number} of {mean: (sum, weight)}, with what the objective derives."""
    values = {name: float(total / weight) if weight else empty for name, (total, weight) in totals.items()}
    derive = getattr(objective, "derive", None)
    return derive(values) if derive else values


def prepared(objective: Objective, model: Model, batch: Batch, parts: int = 1) -> Batch:
    """The batch after the objective's `prepare`, if it has one. parts: into how many micro-batches the caller splits it then."""
    batch.parts = parts
    prepare = getattr(objective, "prepare", None)
    return prepare(model, batch) if prepare else batch
