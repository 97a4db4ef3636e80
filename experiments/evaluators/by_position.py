"""Loss by position: what a model gains from the tokens before the one that it predicts."""

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import long_texts
from experiments.long_texts import ByPosition as Sums
from experiments.long_texts import OneOrMore


@evaluator
class ByPosition:
    """Loss by the number of tokens seen, over the first tokens of long documents: what context is worth.

    Metrics, per context: `position_loss_early`, the mean over the first quarter of the positions, and
    `position_loss_late`, over the last. With a list of contexts, each has its number in the name: `position_loss_late@512`.
    """

    class Config(Spec):
        """rows: documents, all of the split that are long enough if it has fewer.

        context: tokens of a document, by default `data.context`; of a list, each metric is NAME@CONTEXT. buckets: of the
        table, per doubling of the tokens seen.
        """

        rows: Count = 64
        context: OneOrMore | None = None
        buckets: Count = 2

    needs = frozenset({"causal"})
    charts = (
        Chart(
            kind="curve",
            x="seen",
            y="loss",
            by="context",
            title="loss by position",
            labels={"seen": "tokens seen", "loss": "loss (nats per token)", "context": "context"},
            log=("seen",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        loss = Metric(unit="nats per token", compare="log", exponential="perplexity")
        self.metrics = {f"position_loss_{part}{at}": loss for at in self._contexts() for part in ("early", "late")}

    def _contexts(self, default: int = 0) -> dict[str, int]:
        """{what stands behind a metric's name: tokens of a document}."""
        chosen = self.config.context
        return {f"@{each}": each for each in chosen} if isinstance(chosen, tuple) else {"": chosen or default}

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no document of so many tokens."""
        for context in self._contexts(long_texts.context_of(dataset)).values():
            long_texts.check(dataset, split, context, "context")

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The mean loss of each bucket of positions, and of the first and the last quarter."""
        values, table = {}, []
        for at, context in self._contexts(given.context).items():
            sums = Sums(context)
            for rows in long_texts.documents(dataset, given.split, self.config.rows, context, given):
                assert rows.targets_BT is not None
                sums.add(long_texts.nats(model, rows.tokens_BT, rows.targets_BT), rows.targets_BT)
            quarter = max(1, context // 4)
            values[f"position_loss_early{at}"] = sums.mean(1, quarter)
            values[f"position_loss_late{at}"] = sums.mean(context - quarter + 1, context)
            table += [{"context": context, **row} for row in sums.table(self.config.buckets, "loss")]
        return Findings(values, table)
