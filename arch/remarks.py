"""What a model's spec says though it changes nothing: a window as long as the context, a block that no layer uses.

None of it is an error, and all of it is probably not meant. Every command that shows or trains a model prints these
sentences, and a run's record keeps them among its notes.
"""

from typing import Any

import torch

from arch import registry
from arch.model_spec import ModelSpec, repeated
from arch.parameters import Context
from arch.words import listed

ATTENTION = ("attention", "merged_attention")  # mixers of which `window: null` is one that hides nothing


def of_model(spec: ModelSpec, context: int, prefix: str = "", lacks: bool = False) -> list[str]:
    """Sentences about a resolved ModelSpec in a context of so many tokens. prefix: of its keys, such as `model.`.

    lacks: whether it is meant to lack a kind of layer, as the control of a study is.

    Each distinct mixer is built on the meta device; its `reach` says how far it sees.
    """
    beside = [] if spec.encoder is None else of_model(spec.encoder_spec, context, f"{prefix}encoder.", lacks)
    return [*_windows(spec, context, prefix), *_pattern(spec, prefix, lacks), *_pool(spec, prefix), *beside]


def _windows(spec, context, prefix):
    for name in dict.fromkeys(spec.layer_blocks()):
        options = spec.blocks[name].mixer
        if options is not None and _is_idle(_reach(spec, options), context):
            key, length = f"{prefix}blocks.{name}.mixer", f"the context of {context:,} tokens"
            if options.get("window") is None:
                yield f"{key}: what it sees is limited to no less than {length}, so the limit does nothing"
            else:
                yield f"{key}.window: {_window(options['window'])} is not shorter than {length}, so the window does nothing"


def _reach(spec, options):
    return getattr(_mixer(spec, options), "reach", (None, None))


def _mixer(spec, options):
    with torch.device("meta"):
        return registry.build("mixer", options, Context(spec.dim, 0, spec.layers, spec.norm_eps, spec.init))


def _is_idle(reach, context):
    """Whether a mixer has a limit, (before, after), that hides no token of a whole context."""
    before, after = reach
    sides = [before] if after in (None, 0) else [before, after]  # a causal mixer sees nothing after the token itself
    limits = [side for side in sides if side is not None]
    return bool(limits) and all(side >= context - 1 for side in limits)


def _window(window):
    return f"{window:,}" if isinstance(window, int) else ", ".join(f"{side} {count:,}" for side, count in window.items())


def _pattern(spec, prefix, lacks):
    used = dict.fromkeys(spec.layer_blocks())
    cycle = [repeated(item) for item in spec.pattern]
    cut = [repr(name) for name in dict.fromkeys(name for name, _ in cycle) if name not in used]
    others = [repr(name) for name in spec.blocks if name not in used]
    if cut:
        length = sum(count for _, count in cycle)
        yield f"{prefix}pattern: it has {length} layers and the model {spec.layers}, so no layer is {listed(cut, 'or')}"
    elif len(used) == 1 and others and not lacks:
        yield f"{prefix}pattern: every layer is {next(iter(used))!r}, though there are also blocks for {listed(others)}"


def _pool(spec, prefix):
    if spec.pool is None or spec.pool["type"] != "first":
        return
    mixers = [spec.blocks[name].mixer for name in dict.fromkeys(spec.layer_blocks())]
    if all(options is None or _mixer(spec, options).causal for options in mixers):
        yield f"{prefix}pool: the first token of a causal model has seen no other, so every text has the same vector"


def computed(spec: ModelSpec, context: int) -> dict[str, Any]:
    """What a resolved ModelSpec computes in a context of so many tokens, as plain data.

    Models with equal data have the same parameters, initial values and outputs, up to rounding, whatever their specs
    say: names of blocks, blocks that no layer uses, defaults that are written out, and windows that hide nothing do not
    count.
    """
    blocks = {name: explicit(spec, name) for name in dict.fromkeys(spec.layer_blocks())}
    for block in blocks.values():
        mixer = block["mixer"]
        if mixer and mixer["type"] in ATTENTION and mixer["window"] and _is_idle(_reach(spec, mixer), context):
            mixer["window"] = None
    pool = spec.pool and registry.whole("pool", spec.pool, spec.dim)
    vision = spec.vision and registry.whole("tower", spec.vision)
    beside = None if spec.encoder is None else {"embedding": spec.encoder.embedding, **computed(spec.encoder_spec, context)}
    return {
        **spec.dump(neutral=True),
        "pattern": [],
        "blocks": [blocks[name] for name in spec.layer_blocks()],
        "pool": pool,
        "vision": vision,
        "encoder": beside,
    }


def explicit(spec: ModelSpec, name: str) -> dict[str, Any]:
    """A block of a resolved ModelSpec as plain data, with the null defaults that follow from the model written out."""
    block = spec.blocks[name].dump(neutral=True)
    return block | {kind: registry.whole(kind, options, spec.dim) for kind, options in spec.blocks[name].sublayers().items()}
