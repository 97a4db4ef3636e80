"""From a document to a run that is ready to start: complete, checked, costed and with an identity."""

import copy
from dataclasses import dataclass
from typing import Any

from arch import cost, registry
from arch.document import lay, node
from arch.errors import DataError
from arch.spec import digest
from experiments.data.corpus import prepare
from experiments.spec import ExperimentSpec
from experiments.start import Start, plan_start

# What models cost, by all that decides it: the trials of a search are many, their architectures few.
_COSTS = {}


@dataclass(frozen=True)
class RunPlan:
    """A run but for its seed. `identity` covers all that decides its result; the other fields go into its record.

    start: the checkpoint it starts from, None for first values drawn for the seed.
    """

    spec: ExperimentSpec
    identity: str
    data: dict[str, Any]
    plugins: dict[str, str]
    cost: dict[str, Any]
    start: Start | None = None


def resolve(source):
    """The ExperimentSpec of a document, every component complete. Reads no data. Raises SpecError."""
    root = node(source)
    spec = ExperimentSpec.parse(root)
    model = registry.resolve(spec.model, root, ("model",))
    cost.check_builds(model, root, ("model",))
    data = spec.data.model_copy(
        update={kind: registry.resolve_component(kind, root, ("data", kind)) for kind in ("source", "tokenizer")}
    )
    with_default = lay(node({"objective": ExperimentSpec.model_fields["objective"].default}), root)
    objective = registry.resolve_component("objective", with_default, ("objective",))
    return spec.model_copy(update={"model": model, "data": data, "objective": objective})


def plan(source):
    """A RunPlan of the experiment of a document; tokenizes its corpus where that was not done before.

    Raises SpecError for what the spec says and for the data it names, DataError for a token cache that cannot be used.
    """
    root = node(source)
    spec = resolve(root)
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
    return RunPlan(spec, digest(decides), corpus.summary(), plugins, _cost(spec, plugins), start or None)


def _cost(spec, plugins):
    key = digest({"model": spec.model.dump(), "context": spec.data.context, "plugins": plugins})
    if key not in _COSTS:
        _COSTS[key] = cost.summary(spec.model, spec.data.context)
    return copy.deepcopy(_COSTS[key])
