"""What planning asks of a model before anything is trained: its parts do what they say, and it is causal if it must be.

A model is run at small size, in about a second (`arch.probe_model`). What passed is kept in the cache folder, keyed by all
that decides it, so that a study which is started again does not run its models again. Models of shipped components that
differ only in numbers that are not whole (a base of rotary angles, a cap) count as one: no such number moves what a token
sees, which the tests of each component hold, and a large study would otherwise run hundreds of models.
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
        "model": model if sources else _without_fractions(model),
        "causal": causal,
        "tokens": tokens,
        "gpu": gpu and torch.cuda.is_available(),
    }
    made_of = {"plugins": sources, "arch": costs.sources(), "torch": torch.__version__}
    return costs.kept(cache_folder() / FOLDER / f"{digest({**asked, **made_of})}.json", run)["notes"]


def _without_fractions(value: Any) -> Any:
    """Plain data in which every number that is not whole by its type is 0.0."""
    if isinstance(value, dict):
        return {key: _without_fractions(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_fractions(each) for each in value]
    return 0.0 if isinstance(value, float) else value
