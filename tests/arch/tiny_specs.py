"""Tiny resolved specs for the tests of `arch`."""

from arch import registry
from arch.model_spec import ModelSpec
from arch.parameters import Context

DIM = 16


def resolved(data):
    """The resolved ModelSpec of plain data."""
    return registry.resolve(ModelSpec.parse(data), data)


def model_spec(*mixers, ffn=None, layers=None, **rest):
    """A ModelSpec with one block per mixer, in this order."""
    ffn = ffn or {"type": "gated", "hidden": 24}
    blocks = {f"b{i}": {"mixer": mixer, "ffn": ffn, "norm": "sandwich"} for i, mixer in enumerate(mixers)}
    data = {"dim": DIM, "vocab_size": 37, "layers": layers or len(mixers), "pattern": list(blocks), "blocks": blocks}
    return resolved({**data, **rest})


def examples(kind, names=None):
    """The resolved component of every example of the components of a kind."""
    found = []
    for name in registry.names(kind) if names is None else names:
        configs = registry.component(kind, name).Config.examples()
        found.extend({"type": name, **config.dump()} for config in configs)
    return found


def label(value):
    """The name of a test case: a component's type and its options that are neither null nor false."""
    if not isinstance(value, dict):
        return str(value)
    short = {k: v for k, v in value.items() if v not in (None, False)}
    return "-".join(f"{v}" if k == "type" else f"{k}={v}" for k, v in short.items()).replace(" ", "").replace("'", "")


def context(layers=2):
    """A Context of width DIM."""
    return Context(dim=DIM, layers=layers)
