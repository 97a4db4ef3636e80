"""The battery of a cross: what a token of the target may see of a source, and what is kept of the source.

Shapes: B rows, T tokens of the target, S tokens of the source, D width of the target.
"""

from __future__ import annotations

import torch

from arch import probe
from arch.encoded import Encoded
from arch.layout import TokenLayout
from arch.probe import Broken, Point, Subject

SOURCE_SEED = 77


def encoded(it: Subject, rows: int, layout: TokenLayout, dtype: torch.dtype = torch.float32, seed: int = SOURCE_SEED) -> Encoded:
    """A source of these documents, with random states of the encoder's width."""
    generator = torch.Generator().manual_seed(seed)
    states_BSD = torch.randn(rows, layout.doc_BT.shape[1], it.source_dim, generator=generator)
    return Encoded(states_BSD.to(it.device, dtype), layout)


def _documents(it, *lengths):
    """The layout (2, sum) of packed documents of these lengths, with a token of padding behind them."""
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)] + [-1]
    return TokenLayout.packed(torch.tensor([numbers] * 2, device=it.device))


def _with(it, x_BTD, layout, source):
    with probe.alike(), torch.no_grad():
        it.module.eval()
        return it.module(x_BTD, layout, source)


def _changed(it, x_BTD, layout, source, other, tokens):
    """(T,) bool: whether the output changes where other states of the source stand at `tokens` (S,)."""
    hidden_BSD = torch.where(tokens[None, :, None], other.hidden_BSD, source.hidden_BSD)
    before, after = (_with(it, x_BTD, layout, each) for each in (source, Encoded(hidden_BSD, source.layout)))
    return probe.changes(before, after, it.rounding).any(0)


def sees_the_source_of_its_document_only(it: Subject) -> None:
    target, layout = _documents(it, 5, 4), _documents(it, 3, 6)
    x_BTD = probe.drawn(it, 2, 10)
    source, other = (encoded(it, 2, layout, seed=seed) for seed in (1, 2))
    for name, number in (("the source of another document", 1), ("the padding of the source", -1)):
        changed_T = _changed(it, x_BTD, target, source, other, layout.doc_BT[0] == number)
        if (wrong := changed_T & (target.doc_BT[0] == 0)).any():
            raise Broken(
                f"must see the source of its own document only, but {name} changes the output at {int(wrong.nonzero()[0])}"
            )


def reads_the_source(it: Subject) -> None:
    layout = TokenLayout.whole(2, it.short, it.device)
    x_BTD = probe.drawn(it, 2, it.short)
    source, other = (encoded(it, 2, layout, seed=seed) for seed in (1, 2))
    for token in range(it.short):
        only_S = torch.arange(it.short, device=it.device) == token
        if not _changed(it, x_BTD, layout, source, other, only_S).any():
            raise Broken(f"does not read token {token} of the source")


def works_on_each_token_alone(it: Subject) -> None:
    """A token of the target sees no other token of it, so that what is decoded is what is read at once."""
    layout, source_layout = TokenLayout.whole(2, it.short, it.device), TokenLayout.whole(2, it.short + 3, it.device)
    x_BTD, other_BTD = probe.drawn(it, 2, it.short), probe.drawn(it, 2, it.short, seed=9)
    source = encoded(it, 2, source_layout)
    whole_BTD = _with(it, x_BTD, layout, source)
    for token in range(it.short):
        mixed_BTD = torch.where((torch.arange(it.short, device=it.device) == token)[None, :, None], x_BTD, other_BTD)
        if probe.changes(_with(it, mixed_BTD, layout, source)[:, token], whole_BTD[:, token], it.rounding).any():
            raise Broken(f"must work on each token of the target alone, but other tokens change the output at {token}")
        step = TokenLayout.whole(2, 1, it.device, first=token)
        alone_B1D = _with(it, x_BTD[:, token : token + 1], step, source)
        if (far := probe.apart(alone_B1D, whole_BTD[:, token : token + 1], whole_BTD)) > it.close:
            raise Broken(f"gives token {token} another output when it is decoded than at once ({far:.2g} of the largest value)")


def keeps_of_a_source_what_its_rows_are(it: Subject) -> None:
    layout = TokenLayout.whole(3, it.short, it.device)
    source = encoded(it, 3, layout)
    with torch.no_grad():
        kept, again = it.module.keys_values(source), it.module.keys_values(source)
    parts = list(probe.tensors(kept))
    if not parts or any(len(part) != 3 for part in parts):
        raise Broken("must give tensors with the rows first from `keys_values`: what it keeps of a source")
    if any(a is not b for a, b in zip(parts, probe.tensors(again), strict=True)):
        raise Broken("computes what it keeps of a source again when it is asked again; expected `Encoded.kept`")


def counts_its_flops(it: Subject) -> None:
    few, more = (it.module.reading_flops(4, source) for source in (4, 8))
    if not isinstance(few, int) or not more > few:
        raise Broken(f"says {few!r} FLOPs for a source of 4 tokens and {more!r} for one of 8; expected whole numbers that grow")


CROSS = (
    probe.DEFAULTS,
    probe.SHAPE,
    probe.MEMORY,
    probe.ROWS,
    Point("sees the source of its own document only", sees_the_source_of_its_document_only),
    Point("reads every token of the source", reads_the_source),
    Point("works on each token of the target alone", works_on_each_token_alone),
    Point("keeps of a source what `keys_values` gives, computed once", keeps_of_a_source_what_its_rows_are),
    Point("says how many FLOPs reading costs", counts_its_flops),
    probe.FINITE,
    probe.PARAMETERS,
    probe.BFLOAT16,
)
