"""What planning asks of a model before anything is trained: its parts do what they say, and it is causal if it must be.

A model is run at small size, in about a second (`arch.probe_model`). What passed is kept in the cache folder, keyed by all
that decides it, so that a study which is started again does not run its models again.

Models of shipped components whose blocks differ in numbers alone (a window, a width, a base of rotary angles) count as one. The
tests ask every shipped component at many sizes, and every run is asked again when it has trained (`check_trained`); what is
left to planning is how parts are put together, which no number decides. Otherwise a large study would run hundreds of models.
With a plug-in in it, a model is asked with exactly its numbers.
"""

from typing import Any

import torch

from arch import probe_model
from arch.document import Node
from arch.plugins import plugin_sources
from arch.spec import digest
from experiments import capabilities, costs
from experiments.data.cache import root as cache_folder
from experiments.spec import ExperimentSpec

FOLDER = "probes"


def check(spec: ExperimentSpec, root: Node) -> list[str]:
    """Notes on what could not be checked. Raises SpecError where the model of a resolved experiment is not what it says.

    root: the experiment's document.
    Each component of a user's own must pass the battery of `arch.probe`. A model whose mixers all say that they are causal
    must be causal, whatever its other parts; so an objective that needs `causal` never trains one that is not.
    """
    causal = "causal" in capabilities.of(spec).words
    tokens, gpu = spec.data.context, spec.train.accelerator != "cpu"

    def run():
        about = spec.model, root, ("model",), tokens, gpu
        notes = probe_model.check_components(*about)
        return {"passed": True, "notes": [*notes, *(probe_model.check_causal(*about) if causal else [])]}

    model = spec.model.dump()
    sources = plugin_sources(model)
    asked = {
        "model": model if sources else _alike(model),
        "causal": causal,
        "tokens": tokens,
        "gpu": gpu and torch.cuda.is_available(),
    }
    made_of = {"plugins": sources, "arch": costs.sources(), "torch": torch.__version__}
    return costs.kept(cache_folder() / FOLDER / f"{digest({**asked, **made_of})}.json", run)["notes"]


def _alike(model: dict[str, Any]) -> dict[str, Any]:
    """A model as plain data, with 0 for every number in its blocks."""
    return {**model, "blocks": _without_numbers(model["blocks"])}


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_numbers(each) for each in value]
    return 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else value
