"""A model of the same blocks in the same order, with narrower maps and a small vocabulary.

A probe of a big model must not take longer than planning may. What an option means is not known here. So numbers are
halved by trial: the width of the model, then each whole number among a component's options that makes its parameters fewer
and with which it can still be built. A window, which has no parameters, stays.
"""

from dataclasses import replace
from typing import Any

import torch

from arch import registry
from arch.model_spec import ModelSpec
from arch.parameters import Context

NARROW = 32  # a width that is halved only where nothing else can be


def component(kind: str, resolved: dict[str, Any], context: Context, most: int) -> tuple[dict[str, Any], Context]:
    """(resolved component, its Context) with at most `most` parameters, as near to that as halving comes."""
    while (parameters(kind, resolved, context) or 0) > most:
        narrower = replace(context, dim=context.dim // 2)
        fits = narrower.dim > 0 and bool(parameters(kind, resolved, narrower))
        smaller = resolved if fits and narrower.dim >= NARROW else halved(kind, resolved, context)
        if smaller != resolved:
            resolved = smaller
        elif fits:
            context = narrower
        else:
            break
    return resolved, context


def model(spec: ModelSpec, most: int, vocabulary: int = 64, depth: int = 16) -> ModelSpec:
    """The ModelSpec with at most `most` parameters in its layers, as near to that as halving comes.

    Without a pool, which is behind its layers, and without a tower, which is before them. Layers stay, in number and order. Of
    more than `depth`, or if even the narrowest have too many parameters, the first are kept; or a cycle in which each run of equal
    blocks is one layer, if the first are not of every block.
    """
    plain = {"pool": None, "project": (), "vision": None, "quantise": None}
    spec = spec.model_copy(update={"vocab_size": min(spec.vocab_size, vocabulary), **plain})
    if spec.layers > depth:
        spec = _shallow(spec, depth)
    while _size(spec) > most:
        smaller = _smaller(spec)
        if smaller == spec:
            return _shallow(spec, 1)
        spec = smaller
    return spec


def parameters(kind: str, resolved: dict[str, Any], context: Context) -> int | None:
    """The number of parameters of a component; None where it cannot be built."""
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in registry.build(kind, resolved, context).parameters())
    except (Exception, SystemExit):  # a component's own `__init__` may raise anything for options that do not go together
        return None


def halved(kind: str, resolved: dict[str, Any], context: Context) -> dict[str, Any]:
    """The component with each option halved that is a whole number and decides how many parameters there are."""
    for option, value in resolved.items():
        if type(value) is int and value > 1:
            smaller = {**resolved, option: value // 2}
            size, now = (parameters(kind, each, context) for each in (smaller, resolved))
            if size and now and size < now:
                resolved = smaller
    return resolved


def _parts(spec):
    """[(block, kind, resolved, Context)] of the components of the blocks that the layers use."""
    layers = spec.layer_blocks()
    return [
        (name, kind, resolved, Context(spec.dim, layers.index(name), spec.layers, spec.norm_eps, spec.init))
        for name in dict.fromkeys(layers)
        for kind, resolved in spec.blocks[name].sublayers().items()
    ]


def _size(spec):
    """The number of parameters in the layers."""
    layers = spec.layer_blocks()
    return sum((parameters(kind, part, context) or 0) * layers.count(name) for name, kind, part, context in _parts(spec))


def _smaller(spec):
    """The spec halved once: in its width while that is not narrow, else in its components' options, else in its width."""
    narrower = spec.model_copy(update={"dim": spec.dim // 2})
    fits = narrower.dim > 0 and all(parameters(kind, part, context) for _, kind, part, context in _parts(narrower))
    if fits and narrower.dim >= NARROW:
        return narrower
    blocks = dict(spec.blocks)
    for name, kind, part, context in _parts(spec):
        blocks[name] = blocks[name].model_copy(update={kind: halved(kind, part, context)})
    smaller = spec.model_copy(update={"blocks": blocks})
    return narrower if fits and smaller == spec else smaller


def _shallow(spec, depth):
    """The spec's first layers, or one layer for each run of equal blocks if some block is not among them."""
    layers = spec.layer_blocks()
    if {*layers[:depth]} == {*layers}:
        return spec.model_copy(update={"layers": min(depth, spec.layers)})
    runs = [name for i, name in enumerate(layers) if i == 0 or name != layers[i - 1]]
    cycle = next(runs[:n] for n in range(1, len(runs) + 1) if {*runs[:n]} == {*runs})
    pattern = (*cycle, *runs[len(cycle) : len(cycle) + 1])
    return spec.model_copy(update={"pattern": pattern, "layers": len(pattern)})
