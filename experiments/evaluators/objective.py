"""The objective's own metrics over rows of a split."""

from typing import Annotated

from pydantic import Field

from arch.contracts import Dataset, Findings, Given, Metric
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec, later
from experiments import split_rows
from experiments.means import ByDocument, Means


@evaluator
class ObjectiveMetrics:
    """Every metric of the objective, over the same rows for every arm and every seed.

    A student is measured by next-token prediction and not by its distance from a teacher (`Objective.measured_by`).
    """

    class Config(Spec):
        """rows: how many; all rows of the split if it has fewer. context: tokens per row, by default `data.context`.

        Arms that train with different contexts are compared on the same rows only where this context is the same.
        """

        rows: Count = 256
        context: Annotated[int, Field(ge=2)] | None = later(None)

    needs: frozenset[str] = frozenset()
    reads_images = True  # as the objective does
    metrics: dict[str, Metric] | None = None  # the objective's

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of this context."""
        split_rows.check(dataset, split, self.config.context)

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The metrics of all rows together; of the report split also document by document, if objective and dataset can."""
        by_document = given.split == "report" and hasattr(given.reported, "by_position") and hasattr(dataset, "documents")
        means = ByDocument(given.reported, dataset.documents(given.split)) if by_document else Means(given.reported)
        for batch in split_rows.read(dataset, given, self.config.rows, self.config.context):
            means.add(model, batch)
        return Findings(means.values(), documents=means.documents() if isinstance(means, ByDocument) else None)
