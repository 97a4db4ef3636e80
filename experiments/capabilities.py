"""What a run offers (`arch.contracts.CAPABILITIES`), and refusing a component that needs something else."""

from dataclasses import dataclass

import torch

from arch import registry
from arch.contracts import CAPABILITIES
from arch.parameters import Context
from experiments.data.dataset import gives_pairs
from experiments.spec import ExperimentSpec

# {capability: the method by which a mixer offers it}; one layer that has it is enough.
SHOWN = {"attends": "attending", "decays": "decaying"}
# What gives rows of data to a model, with their images if its class says `reads_images`.
READERS = ("objective", "evaluator")


@dataclass(frozen=True)
class Able:
    """The capabilities of a run. reasons: {word: why it is missing}, where more can be said than that it is."""

    words: frozenset[str]
    reasons: dict[str, str]


def of(spec: ExperimentSpec) -> Able:
    """The Able of a resolved ExperimentSpec. Every distinct block's mixer is built on the meta device."""
    words: set[str] = set()
    reasons: dict[str, str] = {}
    model = spec.model
    context = Context(model.dim, 0, model.layers, model.norm_eps, model.init)
    mixers = {}
    with torch.device("meta"):
        for name in dict.fromkeys(model.layer_blocks()):
            if model.blocks[name].mixer is not None:
                mixers[name] = registry.build("mixer", model.blocks[name].mixer, context)
    ahead = [name for name, mixer in mixers.items() if not mixer.causal]
    if model.encoder is not None:
        words.add("encoder_decoder")
        reasons |= dict.fromkeys(("causal", "decodes"), "the model has an encoder: its decoder predicts a target from a source")
    else:
        words.add("sees_ahead" if ahead else "causal")
        reasons["encoder_decoder"] = "the model has no `encoder`"
    if ahead:
        reasons["causal"] = f"the mixer of {_blocks(ahead)} sees later tokens"
    stateless = [name for name, mixer in mixers.items() if mixer.state_size is None]
    if model.pool is not None:
        words.add("encodes")
        reasons["decodes"] = "a model with a `pool` gives no next token"
    elif model.encoder is None and stateless:
        reasons["decodes"] = f"the mixer of {_blocks(stateless)} has no state"
    elif model.encoder is None:
        words.add("decodes")
    words |= {word for word, method in SHOWN.items() if any(hasattr(mixer, method) for mixer in mixers.values())}
    if spec.data.tokenizer is not None:
        words.add("text")
    if hasattr(registry.component("objective", spec.objective["type"]), "distances"):
        words.add("teacher")
    source = registry.component("source", spec.data.source["type"])
    words |= {word for word in ("exact", "recalls", "answers", "images") if getattr(source, word, False)}
    words.add("pairs" if gives_pairs(source) else "rows")
    return Able(frozenset(words), reasons)


def check(kind, component, able, root, path):
    """Raises SpecError at `path` of the document where a component needs what the run does not offer, or knows no images."""
    found = registry.component(kind, component["type"])
    if kind in READERS and "images" in able.words and not getattr(found, "reads_images", False):
        raise root.error(f"{component['type']} reads texts alone, and the data have images", path)
    for word in sorted(getattr(found, "needs", frozenset())):
        if word not in CAPABILITIES:
            raise root.error(f"{component['type']} needs {word!r}; known: {', '.join(sorted(CAPABILITIES))}", path)
        if word not in able.words:
            why = able.reasons.get(word)
            needed = f"{component['type']} needs `{word}`: {CAPABILITIES[word]}"
            raise root.error(needed + (f"; but {why}" if why else ""), path)


def _blocks(names):
    return f"block {names[0]}" if len(names) == 1 else f"blocks {', '.join(names)}"
