"""The peer: the same model in `transformers`."""

from collections import Counter

from arch.errors import DataError, SpecError
from arch.express import express

INSTALL = "pip install -e '.[parity]'"


def new_peer(spec):
    """The `transformers` model of a resolved ModelSpec, on the CPU in float32, with drawn weights.

    Gemma 2 runs its `eager` attention, the only one there that keeps the softcap; the others SDPA. Raises SpecError
    where transformers is missing or has no such model (see `arch.express`).
    """
    try:
        import transformers
    except ImportError:
        raise SpecError(f"--against hf needs the package transformers: {INSTALL}") from None
    transformers.logging.set_verbosity_error()
    config = expressed(spec)
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    theirs = transformers.AutoConfig.for_model(**config.written(), attn_implementation=attention)
    return getattr(transformers, config.architecture())(theirs)


def expressed(spec):
    """The config of the class in transformers that computes what `spec` says. Raises SpecError where there is none."""
    try:
        return express(spec)[1]
    except DataError as error:
        raise SpecError(f"--against hf: {error}") from None


def check_same(ours, theirs, name):
    """Raises SpecError unless both modules have as many parameters in tensors of the same sizes."""
    if sizes(ours) != sizes(theirs):
        counts = [sum(weight.numel() for weight in module.parameters()) for module in (ours, theirs)]
        differing = sorted((sizes(ours) - sizes(theirs)).keys() | (sizes(theirs) - sizes(ours)).keys())
        raise SpecError(
            f"{name}: the peer is another model: {counts[0]:,} parameters here, {counts[1]:,} there; sizes that only "
            f"one of them has: {', '.join('x'.join(map(str, size)) for size in differing)}"
        )


def sizes(module):
    """How many parameters there are of each size, whatever the order of their axes."""
    return Counter(tuple(sorted(size for size in weight.shape if size > 1)) for weight in module.parameters())
