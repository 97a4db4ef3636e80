"""A stack becomes another: a decoder both stacks of an encoder-decoder, an encoder-decoder's encoder a model of its own.

T5Gemma (Zhang et al. 2025, section 3): both stacks start from the layers of a decoder, the encoder without its causal mask, and
cross-attention from the self-attention of its layer where the shapes allow it. Merged attention is self-attention with further
keys, so it starts from self-attention as it is.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from arch.model_spec import ENCODER, ModelSpec

# A mixer whose parameters are those of another one.
SAME = {"merged_attention": "attention"}
CROSS = re.compile(r"(blocks\.\d+)\.cross\.(.*)")
COPIED = "cross-attention, copied from self-attention"
FILLED = "the encoder, filled from the decoder's layers"
TAKEN = "the encoder's, taken out"


def refusal(way: str, ours: ModelSpec, theirs: ModelSpec) -> str:
    """Why a model of `theirs` cannot become one of `ours` in this way; "" if it can."""
    if way == "encoder_decoder":
        if ours.encoder is None:
            return "encoder_decoder: this model has no `encoder`"
        return "encoder_decoder: that run has two stacks already; leave out `as`" if theirs.encoder is not None else ""
    if ours.encoder is not None:
        return "encoder: this model has an `encoder` beside its decoder; expected a model of one stack"
    return "encoder: that run has no `encoder` to take out" if theirs.encoder is None else ""


def sources(way: str | None, names: Iterable[str], theirs: Collection[str]) -> dict[str, str]:
    """{our parameter: the parameter of theirs that it starts from, if shape and component agree}."""
    if way == "encoder_decoder":
        found = {}
        for name in names:
            match = CROSS.fullmatch(name)
            found[name] = f"{match[1]}.mixer.{match[2]}" if match else name.removeprefix(ENCODER)
        return found
    if way == "encoder":
        inside = {name: ENCODER + name for name in names}
        # A shared table is the decoder's.
        return inside | ({} if f"{ENCODER}embedding" in theirs else {"embedding": "embedding"})
    return {name: name for name in names}


def alike(mine: str | None, other: str | None) -> bool:
    """Whether the parameters of two types of component mean the same: they are one, or one is the other with more keys."""
    return SAME.get(mine or "", mine) == SAME.get(other or "", other)


def told(moved: dict[str, str]) -> dict[str, list[str]]:
    """{what came from where: our names} of parameters that start from others of another name."""
    groups: dict[str, list[str]] = {}
    for name in moved:
        what: Any = COPIED if CROSS.fullmatch(name) else FILLED if name.startswith(ENCODER) else TAKEN
        groups.setdefault(what, []).append(name)
    return groups
