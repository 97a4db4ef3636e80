"""Loss at lengths beyond training: whether more context than the model was trained with helps or breaks it."""

from typing import Annotated, Any

import torch
from pydantic import Field

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import long_texts, same_weights
from experiments.long_texts import ByPosition, Lengths

TIMES = (1, 2, 4)


@evaluator
class Extrapolate:
    """Loss of the same tokens after more and more context, beyond the training context; also under another RoPE or window.

    Every length scores the same tokens: the last `tail` of the first max(lengths) tokens of each document. At length L the
    model reads the document's first token (`<bos>`) and the L - 1 tokens that end with the scored ones. So the lengths
    differ in how much context the model has, and in nothing else. Metrics: `extrapolated_loss@LENGTH`, and by default
    `extrapolated_loss@1x`, `@2x` and `@4x` the training context; with a label, `extrapolated_loss_LABEL@LENGTH`.
    """

    class Config(Spec):
        """lengths: in tokens; by default once, twice and four times the training context. rows: documents.

        tail: tokens scored at every length, by default half of the shortest. set: dotted overrides of the model's spec, such
        as `blocks.global.mixer.rope.scale: 8` or `blocks.local.mixer.window: 64`, under which the same weights are measured.
        label: tells apart several of these evaluators, as part of their metrics' names. buckets: of the table, per doubling
        of the tokens seen.
        """

        lengths: Lengths | None = None
        rows: Count = 32
        tail: Count | None = None
        set: dict[str, Any] = {}
        label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]*$")] = ""
        buckets: Count = 2

    needs = frozenset({"causal"})
    charts = (
        Chart(
            kind="curve",
            x="length",
            y="loss",
            title="loss of the same tokens by length",
            labels={"length": "tokens of context", "loss": "loss (nats per token)"},
            log=("length",),
        ),
        Chart(
            kind="curve",
            x="seen",
            y="loss_by_position",
            by="length",
            title="loss by position at each length",
            labels={"seen": "tokens seen", "loss_by_position": "loss (nats per token)", "length": "length"},
            log=("seen",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        label = f"_{config.label}" if config.label else ""
        names = [f"{times}x" for times in TIMES] if config.lengths is None else config.lengths
        self.names = [f"extrapolated_loss{label}@{name}" for name in names]
        loss = Metric(unit="nats per token", compare="log", exponential="perplexity")
        self.metrics = dict.fromkeys(self.names, loss)

    def _lengths(self, context):
        return self.config.lengths or long_texts.multiples(context, TIMES)

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError at the key of `set` that the model or its weights cannot have."""
        if self.config.set:
            try:
                same_weights.changed(model, self.config.set)
            except SpecError as error:
                raise error.below(("set",)) from None

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no document of the longest length, or the shortest cannot hold the tail."""
        lengths = self._lengths(0 if self.config.lengths else long_texts.context_of(dataset))
        long_texts.check(dataset, split, max(lengths), "lengths")
        if self.config.tail and self.config.tail >= min(lengths):
            reason = f"{self.config.tail:,} scored tokens do not fit into {min(lengths):,} tokens beside the first"
            raise SpecError(f"{reason}; expected at most {min(lengths) - 1:,}", ("tail",))

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The loss of the scored tokens at each length, and at each length the loss of each bucket of positions."""
        if self.config.set:
            model = same_weights.model_of(model, same_weights.changed(model.spec, self.config.set))
        lengths = self._lengths(given.context)
        longest, tail = max(lengths), self.config.tail or min(lengths) // 2
        sums = {length: ByPosition(length) for length in lengths}
        for rows in long_texts.documents(dataset, given.split, self.config.rows, longest, given):
            assert rows.targets_BT is not None
            for length in lengths:
                tokens_BT = torch.cat([rows.tokens_BT[:, :1], rows.tokens_BT[:, longest - length + 1 :]], 1)
                targets_BT = rows.targets_BT[:, longest - length :].clone()
                if length < longest:
                    targets_BT[:, 0] = -1  # what follows is not how a document begins
                sums[length].add(long_texts.nats(model, tokens_BT, targets_BT), targets_BT)
        values = {name: sums[length].mean(length - tail + 1, length) for name, length in zip(self.names, lengths, strict=True)}
        table: list[dict[str, Any]] = [
            {"length": length, "loss": values[name], "targets": int(sums[length].targets_T[-tail:].sum())}
            for name, length in zip(self.names, lengths, strict=True)
        ]
        for length in lengths:
            table += [{"length": length, **row} for row in sums[length].table(self.config.buckets, "loss_by_position")]
        return Findings(values, table)
