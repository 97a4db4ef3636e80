"""How long a training step takes, against the length of its rows (Griffin, figure 3)."""

import statistics
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from arch import cost
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec
from experiments import beside, drawn_step, turns

SECONDS = Metric(unit="s", compare="ratio", any_tokenizer=True, varies="machine")
RATIO = Metric(compare="ratio", any_tokenizer=True, varies="machine")


@evaluator
class StepSpeed:
    """Seconds of a step, the objective's pass forward and backward, at several lengths of about as many tokens each.

    The rows hold drawn tokens, one document each: what is computed does not matter, how far a token sees does. The
    optimizer's update, which no length changes, is left out; blocks run eager. The lengths take turns, every other round in
    the opposite order, and so does another model beside this one (`beside`), so that what slows the machine down slows all
    of them; times are medians over rounds, ratios medians of the ratios within a round.

    As with `decode_speed`, a seed does not repeat the times.

    | column | what it is |
    |---|---|
    | `rows`, `length` | rows of a step, tokens per row |
    | `seconds` | of a step; `tokens_per_second` |
    | `beside_seconds`, `over_beside` | of the model beside; the run's own seconds over these |
    """

    class Config(Spec):
        """lengths: tokens per row. tokens: of a step, at most, or one row; by default as many as in training. rounds: timed steps
        at each length. beside: dotted overrides of the model's spec, under which a model with initial weights is timed in turns:
        `{pattern: [global]}`.
        """

        lengths: Annotated[List[Count], Field(min_length=1)]
        tokens: Count | None = None
        rounds: Count = 5
        beside: dict[str, Any] = {}

    needs: frozenset[str] = frozenset()
    charts: tuple[Chart, ...] = (
        Chart(
            kind="curve",
            x="length",
            y="seconds",
            title="Time of a training step of equal tokens",
            labels={"length": "tokens per row", "seconds": "seconds per step"},
            log=("length",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        self.lengths = sorted(set(config.lengths))
        self.metrics = {f"step_seconds@{length}": SECONDS for length in self.lengths} | {"step_slowdown": RATIO}
        if config.beside:
            self.metrics |= dict.fromkeys(("step_over_beside", *(f"step_over_beside@{each}" for each in self.lengths)), RATIO)
            labels = {"length": "tokens per row", "over_beside": "time over that of the model beside"}
            title = "Time of a step over that of the model beside"
            self.charts += (Chart(kind="curve", x="length", y="over_beside", title=title, labels=labels, log=("length",)),)

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError at the key of `beside` that the model cannot have."""
        beside.check(model, self.config.beside)

    def flops(self, model: ModelSpec, rows: int, context: int) -> float:
        """Those of every step, of the model beside too."""
        total = 0.0
        for length, each in self._rows(rows * context).items():
            for spec in beside.specs(model, self.config.beside):
                total += each * length * cost.outline(spec, length)["flops_per_token"]["ideal"]["train"]
        return (self.config.rounds + 1) * total

    def _rows(self, tokens):
        """{length: rows of a step}. tokens: of a step of training."""
        return {length: max(1, (self.config.tokens or tokens) // length) for length in self.lengths}

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """`step_seconds@L`; `step_slowdown`: seconds per token at the longest length over those at the shortest.

        `step_over_beside@L`: seconds over those of the model beside; `step_over_beside` at the longest length.
        """
        rows, device = self._rows(given.rows * given.context), model.embedding.device
        models = {"": model} | ({"beside": beside.model_of(model, self.config.beside, given.seed)} if self.config.beside else {})
        drawn = {each: drawn_step.tokens(rows[each], each, dataset.vocabulary, given.seed).to(device) for each in self.lengths}
        works = {
            (length, name): partial(drawn_step.step, each, given.objective, drawn[length])
            for length in self.lengths
            for name, each in models.items()
        }
        with drawn_step.training(*models.values()):
            seconds = turns.in_turns(works, self.config.rounds, device)
        table = [self._row(seconds, length, rows[length]) for length in self.lengths]
        values = {f"step_seconds@{row['length']}": row["seconds"] for row in table}
        shortest, longest = self.lengths[0], self.lengths[-1]
        more = rows[shortest] * shortest / (rows[longest] * longest)
        values["step_slowdown"] = more * turns.ratio(seconds[longest, ""], seconds[shortest, ""])
        if self.config.beside:
            values |= {f"step_over_beside@{row['length']}": row["over_beside"] for row in table}
            values["step_over_beside"] = table[-1]["over_beside"]
        return Findings(values, table, turns.conditions(device, model.embedding.dtype, self.config.rounds))

    def _row(self, seconds, length, rows):
        own, other = seconds[length, ""], seconds.get((length, "beside"))
        median = statistics.median(own)
        row = {"length": length, "rows": rows, "seconds": median, "tokens_per_second": rows * length / median}
        return row | ({"beside_seconds": statistics.median(other), "over_beside": turns.ratio(own, other)} if other else {})
