"""What one run is: a model, the data it reads, how it is trained and how it is measured."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arch import document
from arch.spec import Component, Count, Fraction, Kind, List, ModelSpec, Positive, Spec, expand_like, later, place


class DataSpec(Spec):
    """Where tokens come from. `context`: tokens a row; `rows`: rows a step, over all devices and micro-batches.

    `source` says where the texts lie, not what they are: identity has the fingerprint of the texts instead.
    """

    source: Annotated[Component, Kind("source")] = place(...)
    tokenizer: Annotated[Component, Kind("tokenizer")]
    context: Annotated[int, Field(ge=2)]
    rows: Count


class OptimizerSpec(Spec):
    """AdamW. `weight_decay` reaches matrices and embeddings only: no norms, no biases, nothing of a recurrence."""

    lr: Positive
    betas: List[Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Positive | None = 1.0

    @model_validator(mode="after")
    def _two_betas(self):
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise ValueError("betas: expected two numbers below 1")
        return self


class ScheduleSpec(Spec):
    """Learning rate over the run: a linear warm-up, then `cosine` down to `final`, or `wsd`: stable, then linear decay.

    All are fractions: `warmup` and `decay` of the steps (`decay` for wsd only), `final` of the peak rate.
    """

    type: Literal["cosine", "wsd"] = "cosine"
    warmup: Fraction = 0.05
    decay: Fraction = 0.2
    final: Fraction = 0.1


class TrainSpec(Spec):
    """`accumulate`: micro-batches a step (the step's result is the same to rounding). `threads`: CPU threads. Both
    decide bits and so are part of a run's identity, as are accelerator and devices where they are not one CPU;
    accelerator, devices and strategy go to Lightning as they are.

    compile: `on` has torch.compile compile each distinct block before the first step, which changes last bits and so
    identity; `off` is plain eager. `auto` becomes one of them when the run is planned, by `experiments.plan.worth`:
    `off` on a CPU, where nothing is gained, and on a GPU `on` where the run is long enough to earn it back.
    """

    steps: Count
    accumulate: Count = 1
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    threads: Count = 1
    accelerator: Literal["cpu", "gpu", "mps", "tpu"] = later("cpu")
    devices: Count = later(1)
    compile: Literal["off", "on", "auto"] = later("off")
    strategy: str = place("auto")
    checkpoint_every: Count = place(100)


class EvaluateSpec(Spec):
    """`every`: steps between evaluations on the select split. Rows are the same ones for every arm and every seed."""

    every: Count = 50
    select_rows: Count = 64
    report_rows: Count = 256
    sample_tokens: Annotated[int, Field(ge=0)] = 100


class ExperimentSpec(Spec):
    """One run but for its seed.

    init_from: a checkpoint folder (`python -m arch import`, or a finished run's) that gives first values to the
    parameters it has. Relative to the working folder, and no part of identity; what is taken from it is.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    model: ModelSpec
    data: DataSpec
    objective: Annotated[Component, Kind("objective")] = {"type": "next_token"}
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = ScheduleSpec()
    train: TrainSpec
    evaluate: EvaluateSpec = EvaluateSpec()
    init_from: Annotated[str, Field(min_length=1)] | None = later(None, place=True)

    @classmethod
    def parse(cls, source, path=()):
        """As `Spec.parse`, with `like:` laid in among the model's blocks."""
        return super().parse(expand_like(document.node(source), (*path, "model")), path)

    @model_validator(mode="after")
    def _micro_batches_divide_rows(self):
        if self.data.rows % (self.train.accumulate * self.train.devices):
            raise ValueError(
                f"train.accumulate * train.devices = {self.train.accumulate * self.train.devices} "
                f"must divide data.rows = {self.data.rows}"
            )
        return self

    @property
    def tokens(self):
        """Tokens the run trains on."""
        return self.train.steps * self.data.rows * self.data.context
