"""Adding up what an objective returns, over micro-batches and batches."""

from arch.contracts import Mean


class Means:
    """Sums and weights of an objective's metrics over all batches that were added."""

    def __init__(self, objective):
        self.objective, self.totals = objective, {}

    def add(self, model, batch):
        """Prepare a batch, call the objective on it, and add its means."""
        self.include(self.objective(model, prepared(self.objective, model, batch)))

    def include(self, means):
        """Add means that were computed already, without their graph."""
        for name, mean in means.items():
            total, weight = self.totals.get(name, Mean(0, 0))
            self.totals[name] = Mean(total + mean.sum.detach(), weight + mean.weight)

    def values(self):
        """{metric: number} of everything added, with the metrics that the objective derives from its means."""
        weights = {name: float(mean.weight) for name, mean in self.totals.items()}
        values = {name: float(mean.sum) / (weights[name] or 1.0) for name, mean in self.totals.items()}
        derive = getattr(self.objective, "derive", None)
        return derive(values) if derive else values


def prepared(objective, model, batch):
    """The batch after the objective's `prepare`, if it has one."""
    prepare = getattr(objective, "prepare", None)
    return prepare(model, batch) if prepare else batch
