"""From a document to a run that is ready to start: complete, checked, costed and with an identity."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from arch import cost, registry
from arch.document import lay, node
from arch.errors import DataError
from arch.model import Model
from arch.spec import digest
from experiments.compiled import CompileError, compiler, kinds
from experiments.data.corpus import prepare
from experiments.spec import ExperimentSpec
from experiments.start import Start, plan_start

# What models cost, by all that decides it: the trials of a search are many, their architectures few.
_COSTS = {}


@dataclass(frozen=True)
class RunPlan:
    """A run but for its seed. `identity` covers all that decides its result; the other fields go into its record.

    start: the checkpoint it starts from, None for first values drawn for the seed. notes: what was decided for it.
    """

    spec: ExperimentSpec
    identity: str
    data: dict[str, Any]
    plugins: dict[str, str]
    cost: dict[str, Any]
    start: Start | None = None
    notes: tuple[str, ...] = ()


# What compiling takes and gives on a CPU in float32, by docs/notebook.md, "Blocks compiled": FLOPs (6 a parameter and
# token) a thread and second of the eager step; by how much of itself the compiled step is shorter, the least seen;
# seconds a distinct block with an empty cache, the most seen.
EAGER_RATE, GAIN, SECONDS = 6e10, 0.05, 15.0


def worth(spec):
    """(whether compiling pays, why) for an ExperimentSpec, from its numbers alone: no clock decides an identity.

    It pays where GAIN of the time that the eager steps take is more than all distinct blocks take to compile. Where
    that was not measured, it does not.
    """
    if (spec.train.accelerator, spec.train.precision) != ("cpu", "32-true"):
        return False, f"never measured for {spec.train.precision} on {spec.train.accelerator}"
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in Model(spec.model).parameters())
    eager = 6 * parameters * spec.tokens / (EAGER_RATE * spec.train.threads)
    cost = SECONDS * len(kinds(spec.model))
    return GAIN * eager > cost, f"{GAIN:.0%} of about {eager:,.0f} s of steps against up to {cost:,.0f} s of compiling"


def resolve(source):
    """The ExperimentSpec of a document, every component complete. Reads no data. Raises SpecError."""
    return _resolved(node(source))[0]


def _resolved(root):
    """(the ExperimentSpec, notes on what was decided for it)"""
    spec = ExperimentSpec.parse(root)
    model = registry.resolve(spec.model, root, ("model",))
    cost.check_builds(model, root, ("model",))
    data = spec.data.model_copy(
        update={kind: registry.resolve_component(kind, root, ("data", kind)) for kind in ("source", "tokenizer")}
    )
    with_default = lay(node({"objective": ExperimentSpec.model_fields["objective"].default}), root)
    objective = registry.resolve_component("objective", with_default, ("objective",))
    return _with_compile(spec.model_copy(update={"model": model, "data": data, "objective": objective}))


def _with_compile(spec):
    """(the spec with `train.compile: auto` decided, notes on it)"""
    if spec.train.compile != "auto":
        return spec, ()
    pays, why = worth(spec)
    if pays:
        try:
            compiler("cpu")
        except CompileError as error:
            pays, why = False, str(error)
    choice = "on" if pays else "off"
    train = spec.train.model_copy(update={"compile": choice})
    return spec.model_copy(update={"train": train}), (f"train.compile: auto became {choice}: {why}",)


def plan(source):
    """A RunPlan of the experiment of a document; tokenizes its corpus where that was not done before.

    Raises SpecError for what the spec says and for the data it names, DataError for a token cache that cannot be used.
    """
    root = node(source)
    spec, notes = _resolved(root)
    try:
        start = spec.init_from and plan_start(spec.model, spec.init_from)
        corpus = prepare(spec.data, spec.model.vocab_size)
    except DataError as error:
        if error.key is None:
            raise
        raise root.error(str(error), error.key) from None
    content = spec.dump(identity=True)
    plugins = registry.plugin_sources(content)
    decides = {"spec": content, "data": corpus.fingerprint, "plugins": plugins}
    if start:
        decides["init_from"] = start.identity
    if start:
        notes = (*start.notes(), *notes)
    return RunPlan(spec, digest(decides), corpus.summary(), plugins, _cost(spec, plugins), start or None, notes)


def _cost(spec, plugins):
    key = digest({"model": spec.model.dump(), "context": spec.data.context, "plugins": plugins})
    if key not in _COSTS:
        _COSTS[key] = cost.summary(spec.model, spec.data.context)
    return copy.deepcopy(_COSTS[key])
