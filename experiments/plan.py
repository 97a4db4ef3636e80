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
from experiments.compiled import kinds
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


# What compiling gives and takes on a GPU: FLOPs (6 a parameter and token) a second and device of the eager step; the
# share of it that a compiled step saves; seconds a distinct block. Assumed with care, measured by nobody.
GPU_RATE, GPU_GAIN, GPU_SECONDS = 2e14, 0.1, 60.0


def worth(spec):
    """(whether compiling pays, why) for an ExperimentSpec, from its numbers alone: no clock decides an identity."""
    if spec.train.accelerator == "cpu":
        return False, "on a CPU it gains nothing beside our own kernels"
    if spec.train.accelerator != "gpu":
        return False, f"nobody has tried it on {spec.train.accelerator}"
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in Model(spec.model).parameters())
    saved = GPU_GAIN * 6 * parameters * spec.tokens / (GPU_RATE * spec.train.devices)
    cost = GPU_SECONDS * len(kinds(spec.model))
    return saved > cost, f"about {saved:,.0f} s saved for {cost:,.0f} s of compiling (assumed, never measured on a GPU)"


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
