"""The objective's own metrics over rows of a split."""

from arch.contracts import Dataset, Findings, Given, Metric
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments.means import Means


@evaluator
class ObjectiveMetrics:
    """Every metric of the objective, over the same rows for every arm and every seed."""

    class Config(Spec):
        """rows: how many; all rows of the split if it has fewer."""

        rows: Count = 256

    needs: frozenset[str] = frozenset()
    metrics: dict[str, Metric] | None = None  # the objective's

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The metrics of all rows together."""
        means = Means(given.objective)
        for batch in dataset.evaluation(given.split, self.config.rows, given.context, given.rows):
            means.add(model, batch.to(given.device))
        return Findings(means.values())
