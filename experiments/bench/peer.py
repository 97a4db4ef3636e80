"""The peer: the same model in `transformers`."""

from collections import Counter

from arch.errors import DataError, SpecError
from arch.express import express
from experiments.bench.against import PARITY


def new_peer(spec):
    """The `transformers` model of a resolved ModelSpec, on the CPU in float32, with random weights.

    Gemma 2 uses `eager` attention, the only one in transformers that applies the softcap; the others use SDPA. Raises
    SpecError if transformers is missing or has no such model (see `arch.express`).
    """
    try:
        import transformers
    except ImportError:
        raise SpecError(f"needs the package transformers: {PARITY}", ("against",)) from None
    transformers.logging.set_verbosity_error()
    config = expressed(spec)
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    theirs = transformers.AutoConfig.for_model(**config.written(), attn_implementation=attention)
    return getattr(transformers, config.architecture())(theirs)


def expressed(spec):
    """The config of the transformers class that computes exactly `spec`. Raises SpecError if there is none."""
    try:
        return express(spec)[1]
    except DataError as error:
        raise SpecError(f"no such model in transformers: {error}", ("against",)) from None


def check_same(ours, theirs, name):
    """Raises SpecError unless both modules have the same number of parameter tensors of every size."""
    if sizes(ours) != sizes(theirs):
        counts = [sum(weight.numel() for weight in module.parameters()) for module in (ours, theirs)]
        differing = sorted((sizes(ours) - sizes(theirs)).keys() | (sizes(theirs) - sizes(ours)).keys())
        raise SpecError(
            f"{name}: the peer is another model: {counts[0]:,} parameters here, {counts[1]:,} there; sizes that only "
            f"one of them has: {', '.join('x'.join(map(str, size)) for size in differing)}"
        )


def sizes(module):
    """{size: number of parameter tensors}. A size is the sorted shape without ones, so transposed tensors are equal."""
    return Counter(tuple(sorted(size for size in weight.shape if size > 1)) for weight in module.parameters())
