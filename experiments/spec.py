"""The spec of one run: the model, its data, how it is trained and how it is evaluated."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from arch import document
from arch.model_spec import ModelSpec, expand_like
from arch.spec import Component, Count, Kind, List, Spec, later, place

# The components that an experiment uses where it does not name a `type`.
DEFAULT_TYPES = {"objective": "next_token", "optimizer": "adamw", "schedule": "cosine"}

Folder = Annotated[str, Field(min_length=1)]


class DataSpec(Spec):
    """Where tokens come from. `context`: tokens per row. `rows`: rows per step, over all devices and micro-batches.

    `source`: where the texts are; so it is not part of a run's identity, but the fingerprint of the texts is.
    `tokenizer`: how texts become tokens; a task needs none.
    `splits`: `by_content` gives every document to one split; `all` gives every document to every split, to measure a
    model on texts that it was not trained on.
    `on_loss`: what is done with a document that the tokenizer does not give back as it was: `refuse` names the first one,
    `skip` leaves them out and counts them, `keep` takes them as the tokenizer changes them; then bits per byte count the
    bytes of the changed texts.
    """

    source: Annotated[Component, Kind("source")] = place(...)
    tokenizer: Annotated[Component, Kind("tokenizer")] | None = None
    context: Annotated[int, Field(ge=2)]
    rows: Count
    splits: Literal["by_content", "all"] = later("by_content")
    on_loss: Literal["refuse", "skip", "keep"] = later("refuse")


class TrainSpec(Spec):
    """How the model is trained.

    steps: of the optimizer; 0: none, the run only measures its initial weights. nodes: machines.
    checkpoint_every: steps between checkpoints from which an interrupted run goes on.
    accumulate: micro-batches per step; the number changes a step's result only by rounding. threads: CPU threads.
    Both change the bits of the result, so they are part of a run's identity; so are accelerator, devices and nodes, unless
    they are one CPU. accelerator: as Lightning names it.

    devices: of each of `nodes` machines, with a process for each; on a CPU, so many processes of `threads` threads. Each
    trains on its share of the rows. Several nodes are started by torchrun or srun. strategy: how the processes share the
    work: `ddp` keeps the whole model in each, `fsdp2` a part of every weight; `auto` is `ddp`. fsdp2 sums in another order
    than ddp, so it is part of the identity.

    precision: `32-true` is float32. `bf16-mixed` computes in bfloat16 from weights that stay float32, as do their gradients and
    what the optimizer keeps; norms, softmax, losses and recurrences compute in float32. `bf16-true` has bfloat16 weights.
    `auto` becomes `32-true` or `bf16-mixed` when the run is planned (see `experiments.auto`): by what this machine has and how
    wide the model is.
    products: of a run in float32 on a CPU. `exact`, or `bf16`: factors of matrix products are rounded to bfloat16, and their
    products are summed in float32. Any CPU computes both bfloat16 kinds; one without units for bfloat16 is slower than in float32.

    compile: `on` compiles each distinct block with torch.compile in the first step; this changes the last bits and
    therefore the identity. `off` runs eager. `auto` becomes `on` or `off` when the run is planned (see
    `experiments.plan.worth`): off on CPUs, where our kernels are already as fast; on for GPU runs that are long enough
    to repay the compilation time.
    """

    steps: Annotated[int, Field(ge=0)]
    accumulate: Count = 1
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "auto"] = "32-true"
    products: Literal["exact", "bf16"] = later("exact")
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    accelerator: Literal["cpu", "gpu", "mps", "tpu"] = later("cpu")
    devices: Count = later(1)
    nodes: Count = later(1)
    compile: Literal["off", "on", "auto"] = later("off")
    strategy: Literal["auto", "ddp", "fsdp2"] = place("auto")
    checkpoint_every: Count = place(100)

    @model_validator(mode="after")
    def _products_are_of_float32_on_a_cpu(self):
        if self.products == "bf16" and self.precision != "32-true":
            raise ValueError(f"products: bf16 is for precision 32-true; {self.precision} decides its products itself")
        if self.products == "bf16" and self.compile == "on":
            raise ValueError("products: bf16 is for eager blocks, say compile: off; torch.compile leaves out what only rounds")
        if self.products == "bf16" and self.accelerator != "cpu":
            raise ValueError(f"products: bf16 is for a CPU; on {self.accelerator} say precision: bf16-mixed")
        return self

    @property
    def shares(self):
        """How many parts the rows of a step are cut into, one for each device of each node."""
        return self.devices * self.nodes

    @property
    def processes(self):
        """The processes that train: one per device, but one alone where nothing is trained."""
        return self.shares if self.steps else 1

    @property
    def sharded(self):
        """Whether each process holds only a part of the weights."""
        return self.strategy == "fsdp2" and self.processes > 1


Evaluators = dict[str, Annotated[Component, Kind("evaluator")] | None]


class EvaluateSpec(Spec):
    """What is measured; no part of a run's identity, so a finished run gains a measurement without training.

    every: steps between evaluations on the select split. select, report: {name: evaluator} of each split; by default
    `loss` (the objective's metrics over 64 and 256 rows) and, of report, what the data allow: `sample` (100 tokens) where
    the model decodes text, `recall` and `floor` of tasks.
    null in place of an evaluator drops it, where a spec extends another or an arm overrides one.
    select_rows, report_rows, sample_tokens: the older spelling of the same three (0 tokens: no sample).
    """

    every: Count = 50
    select: Evaluators | None = None
    report: Evaluators | None = None
    select_rows: Count | None = later(None)
    report_rows: Count | None = later(None)
    sample_tokens: Annotated[int, Field(ge=0)] | None = later(None)

    @model_validator(mode="after")
    def _names_are_file_names(self):
        for split in ("select", "report"):
            for name in getattr(self, split) or ():
                if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                    raise ValueError(f"{split}: the name {name!r} becomes a file's; expected letters, digits, _ and -")
        return self


def _seed_rule(value):
    if value != "same" and (isinstance(value, str) or not 0 <= value < 2**32):
        raise ValueError(f"expected `same` or a whole number from 0 to {2**32 - 1}")
    return value


class RunReference(Spec):
    """A run whose trained weights another run starts from.

    run: in a study, the name of an arm or of a helper run (`runs`), or an experiment's spec (a shipped name or a path
    ending in .yaml); anywhere, a checkpoint folder. seed: of that run; `same` is the seed of the run that refers to it.
    set: dotted overrides of that run.
    as: of `init_from`, between a model of one stack and one of two. `encoder_decoder`: that run is a decoder; its layers fill both
    stacks, and cross-attention starts from their self-attention. `encoder`: that run has two stacks; its encoder fills this model.
    null: every parameter starts from the one of its own name.
    """

    run: Annotated[str, Field(min_length=1)]
    seed: Annotated[int | str, AfterValidator(_seed_rule)] = "same"
    set: dict[str, Any] = {}
    stack: Literal["encoder_decoder", "encoder"] | None = later(None, alias="as")

    @property
    def label(self):
        """The run in words: its name, and what is overridden."""
        changes = ", ".join(f"{key}={value}" for key, value in self.set.items())
        return f"{self.run} with {changes}" if changes else self.run


Reference = Folder | RunReference


class NamedKind(Kind):
    """A Kind that may be written as its name alone, where its options have their defaults."""

    def __get_pydantic_json_schema__(self, core_schema, handler):
        return {"anyOf": [super().__get_pydantic_json_schema__(core_schema, handler), {"type": "string"}]}


class Merge(Spec):
    """Several runs that become one set of weights by a rule.

    merge: the rule, a component; its name alone where it has no options. of: the runs or folders that are merged.
    start: the run or folder that they started from, for a rule that needs it.
    """

    merge: Annotated[Component, NamedKind("merge")]
    of: Annotated[List[Reference], Field(min_length=1)]
    start: Reference | None = None


def _form(value):
    return "Merge" if isinstance(value, Merge) or (isinstance(value, dict) and "merge" in value) else "Run"


# One run, or several that are merged: which of the two, the key `merge` says, so that an error is of the one that is meant.
RunOrMerge = Annotated[Annotated[RunReference, Tag("Run")] | Annotated[Merge, Tag("Merge")], Discriminator(_form)]


class ExperimentSpec(Spec):
    """One run without its seed. `objective`, `optimizer` and `schedule` need no `type`, see DEFAULT_TYPES.

    schema: the version of this format. model: the architecture. data: where tokens come from. objective: what is minimised.
    optimizer: how weights follow their gradients. schedule: the learning rate over the steps. train: how long, on which device.
    evaluate: what is measured.
    init_from: where initial weights come from: a checkpoint folder (from `archbench import` or of a finished run), a
    reference to a run, or a list of them, which means the mean of their parameters; or several that are merged by another
    rule (`merge: slerp`). Parameters that they do not have are drawn from the seed. Names and paths (relative to the working
    folder) are not part of identity; what they stand for is: the weights of a folder, or the identity and the seed of a run.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    model: ModelSpec
    data: DataSpec
    objective: Annotated[Component, Kind("objective")]
    optimizer: Annotated[Component, Kind("optimizer")]
    schedule: Annotated[Component, Kind("schedule")]
    train: TrainSpec
    evaluate: EvaluateSpec = place(EvaluateSpec())
    init_from: Folder | RunOrMerge | List[Reference] | None = later(None, place=True)

    @classmethod
    def parse(cls, source, path=()):
        """Like `Spec.parse`, after expanding `like:` in the model's blocks."""
        return super().parse(expand_like(document.node(source), (*path, "model")), path)

    @model_validator(mode="before")
    @classmethod
    def _name_default_types(cls, data):
        return with_types(document.node(data)).plain()

    @model_validator(mode="after")
    def _micro_batches_divide_rows(self):
        train, words = self.train, "train.accumulate * train.devices"
        if self.data.rows % (train.accumulate * train.shares):
            words += " * train.nodes" if train.nodes > 1 else ""
            raise ValueError(f"{words} = {train.accumulate * train.shares} must divide data.rows = {self.data.rows}")
        return self

    @model_validator(mode="after")
    def _rounds_eagerly(self):
        if self.model.quantise is not None and self.train.compile == "on":
            raise ValueError("train.compile: quantised weights (model.quantise) are not compiled; say `off`")
        if self.model.quantise is not None and self.train.sharded:
            raise ValueError("train.strategy: fsdp2 cuts weights that model.quantise needs whole; say `ddp`")
        return self

    @model_validator(mode="after")
    def _measures_what_it_has_not_seen(self):
        if self.train.steps and self.data.splits == "all":
            raise ValueError("data.splits: `all` is for a run that only measures (train.steps: 0); expected `by_content`")
        return self

    @model_validator(mode="after")
    def _starts_from_something(self):
        if self.init_from == ():
            raise ValueError("init_from: expected at least one run or folder, got an empty list")
        return self

    @property
    def starts(self):
        """[(its key in the spec, a folder or a RunReference)] of `init_from`; what runs that are merged started from is last."""
        if self.init_from is None:
            return []
        if isinstance(self.init_from, Merge):
            each = [(("init_from", "of", i), one) for i, one in enumerate(self.init_from.of)]
            return each if self.init_from.start is None else [*each, (("init_from", "start"), self.init_from.start)]
        if isinstance(self.init_from, tuple):
            return [(("init_from", i), each) for i, each in enumerate(self.init_from)]
        return [(("init_from",), self.init_from)]

    @property
    def tokens(self):
        """The number of tokens that the run trains on."""
        return self.train.steps * self.data.rows * self.data.context


def with_types(root):
    """The document of an experiment in which every component of DEFAULT_TYPES has a `type`, and a rule that is a name is one
    too."""
    types = {kind: {"type": name} for kind, name in DEFAULT_TYPES.items()}
    return _with_rule(document.lay(document.node(types, root.file, root.line), root))


def _with_rule(root):
    start = root.value.get("init_from") if isinstance(root.value, dict) else None
    rule = start.value.get("merge") if start is not None and isinstance(start.value, dict) else None
    if start is None or rule is None or not isinstance(rule.value, str):
        return root
    whole = document.Node({"type": rule}, rule.file, rule.line)
    merged = document.Node({**start.value, "merge": whole}, start.file, start.line)
    return document.Node({**root.value, "init_from": merged}, root.file, root.line)
