"""How well a model answers, by how far the answer lies back and among how many it is.

Shapes: B rows, T tokens, N positions.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.kernels.cross_entropy import predictions
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, List, Spec, later
from experiments import split_rows

Context = Annotated[int, Field(ge=2)]
RIGHT = Metric(better="higher", compare="difference")
BOUNDS: dict[str, tuple[float, ...]] = {"accuracy": (0.0, 1.0)}


@evaluator
class Recall:
    """Accuracy by distance and by number of pairs, for data whose rows ask for what came before in them (mqar, induction, ...).

    recall_accuracy: the share of right answers. recall_exact: the share of rows in which every answer is right. With `by_row`
    also recall_by_row: the mean over rows of their shares of right answers, as Zoology's published accuracies are. A longer
    context shows what a model does beyond the length that it was trained with.
    """

    class Config(Spec):
        """rows: how many. context: tokens per row, by default `data.context`; of a list, each metric is NAME@CONTEXT.

        by_row: also a mean in which a row of few questions counts as much as one of many.
        """

        rows: Count = 256
        context: Context | Annotated[List[Context], Field(min_length=1)] | None = None
        by_row: bool = later(False)

        @classmethod
        def examples(cls):
            return [cls(), cls(context=(256, 1024), by_row=True)]

    needs = frozenset({"causal", "recalls"})
    charts = (
        Chart(
            kind="curve",
            x="distance",
            y="accuracy",
            by="rows of",
            title="Accuracy by distance",
            labels={"distance": "tokens from the fact to its question (at least)", "accuracy": "accuracy"},
            log=("distance",),
            bounds=BOUNDS,
        ),
        Chart(
            kind="curve",
            x="pairs",
            y="accuracy",
            by="rows of",
            title="Accuracy by number of pairs",
            labels={"pairs": "pairs before the question", "accuracy": "accuracy"},
            bounds=BOUNDS,
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        self.metrics = {f"{name}{at}": RIGHT for at in self._contexts() for name in _Tally().shares(config.by_row)}

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of one of the contexts."""
        for at, context in self._contexts().items():
            try:
                split_rows.check(dataset, split, context)
            except SpecError as error:
                raise SpecError(f"{context:,}: {error.reason}" if at else error.reason, error.path) from None

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The shares, and a table by distance (in octaves: 1, 2, 4, ... and more) and by number of pairs."""
        values: dict[str, float] = {}
        table: list[dict[str, Any]] = []
        for at, context in self._contexts().items():
            tally = _Tally()
            for right_BT, target_BT, extra in self._answers(model, dataset, given, context or given.context):
                tally.add(right_BT, target_BT, extra)
            values |= {f"{name}{at}": share for name, share in tally.shares(self.config.by_row).items()}
            table += [{"rows of": f"{context or given.context:,} tokens", **row} for row in tally.table()]
        return Findings(values, table)

    def _contexts(self) -> dict[str, int | None]:
        """{what stands behind a metric's name: tokens per row}; None is the training's context."""
        chosen = self.config.context
        return {f"@{each}": each for each in chosen} if isinstance(chosen, tuple) else {"": chosen}

    def _answers(self, model: Model, dataset: Dataset, given: Given, context: int) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        """(which positions are right, which have a target, extra) of each batch: arrays (B, T)."""
        for batch in split_rows.read(dataset, given, self.config.rows, context):
            part = batch["text"]
            assert part.targets_BT is not None
            hidden_BTD, _ = model.trunk(part.tokens_BT, part.layout)
            inputs = hidden_BTD.flatten(0, 1), model.head_weight, part.targets_BT.flatten(), model.spec.logit_softcap
            right_BT = predictions(*inputs)[1].view_as(part.targets_BT)
            extra = {name: part.extra[name].cpu().numpy() for name in ("distance", "pairs")}
            yield right_BT.cpu().numpy(), (part.targets_BT >= 0).cpu().numpy(), extra


class _Tally:
    """Answers counted, in all, by row, by octave of the distance and by number of pairs: {key: [right, targets]}."""

    def __init__(self) -> None:
        self.rows = self.exact_rows = self.right = self.targets = 0
        self.row_shares = 0.0
        self.by: dict[str, dict[int, Any]] = {"distance": {}, "pairs": {}}

    def add(self, right_BT: Any, target_BT: Any, extra: dict[str, Any]) -> None:
        asked_B = target_BT.any(1)
        self.rows += int(asked_B.sum())
        self.exact_rows += int((right_BT | ~target_BT).all(1)[asked_B].sum())
        self.row_shares += float(((right_BT & target_BT).sum(1)[asked_B] / target_BT.sum(1)[asked_B]).sum())
        right_N = right_BT[target_BT]
        self.right, self.targets = self.right + int(right_N.sum()), self.targets + len(right_N)
        for name, counts in self.by.items():
            key_N = extra[name][target_BT]
            if name == "distance":
                key_N = 2 ** np.log2(np.maximum(key_N, 1)).astype(np.int64)
            for key in np.unique(key_N):
                of_key = right_N[key_N == key]
                counts[int(key)] = counts.get(int(key), 0) + np.array([of_key.sum(), len(of_key)])

    def shares(self, by_row: bool) -> dict[str, float]:
        """The shares of right answers by the names of their metrics; 0 where nothing was asked."""
        rows = max(1, self.rows)
        found = {"recall_accuracy": self.right / max(1, self.targets), "recall_exact": self.exact_rows / rows}
        return found | ({"recall_by_row": self.row_shares / rows} if by_row else {})

    def table(self) -> list[dict[str, Any]]:
        return [
            {"distance": None, "pairs": None, name: key, "accuracy": float(right / targets), "targets": int(targets)}
            for name, counts in self.by.items()
            for key, (right, targets) in sorted(counts.items())
        ]
