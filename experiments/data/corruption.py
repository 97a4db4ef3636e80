"""A text cut into a source and a target: spans of tokens are taken out, or its end is (Tay et al. 2022, UL2, section 3.1).

Shapes: N tokens of a document, K spans.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arch.layout import TokenLayout
from arch.spec import Fraction, Positive, Spec
from experiments.data.batch import Rows

Ids = NDArray[np.int64]
Cut = Callable[[Ids, int, int], tuple[Ids, Ids]]  # (tokens, key of the row, number of the document) to (source, target)


class Denoiser(Spec):
    """One way to cut a document. rate: the share of its tokens that is taken out; weight: how often it is drawn.

    span: the mean length of a span; null for one span at the end, the suffix.
    """

    rate: Fraction
    span: Positive | None = None
    weight: Positive = 1.0

    def taken(self, tokens: int) -> int:
        """How many tokens of a document are taken out: at least one, and one stays."""
        return part_of(tokens, self.rate)

    def spans(self, tokens: int) -> int:
        """K: in how many spans. Between two of them there is at least one token that stays."""
        out = self.taken(tokens)
        return 1 if self.span is None else min(max(round(out / self.span), 1), out, tokens - out)


def part_of(tokens: int, share: float) -> int:
    """How many of so many tokens a share of them is: at least one, and one is left."""
    return min(max(round(tokens * share), 1), tokens - 1)


def without_suffix(tokens_N: Ids, suffix: int) -> tuple[Ids, Ids]:
    """(the tokens before the last `suffix`, those)."""
    cut = len(tokens_N) - suffix
    return tokens_N[:cut], tokens_N[cut:]


def without_spans(tokens_N: Ids, out: int, spans: int, first: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """(source, target) after `spans` spans, of `out` tokens together, were taken out (Raffel et al. 2020, T5, section 3.1.4).

    Span i is replaced by the sentinel first + i; the target is every sentinel with its span, and a last sentinel. The lengths of
    spans, and of what stands before each, are random compositions. A document begins with a token that stays.
    """
    lengths = (_composed(len(tokens_N) - out, spans, random), _composed(out, spans, random))
    source, target, place = [], [], 0
    for number, (stays, goes) in enumerate(zip(*lengths, strict=True)):
        sentinel = np.array([first + number])
        source += [tokens_N[place : place + stays], sentinel]
        target += [sentinel, tokens_N[place + stays : place + stays + goes]]
        place += stays + goes
    return np.concatenate(source), np.concatenate([*target, [first + spans]])


def _composed(total, parts, random):
    """`parts` whole numbers of at least 1 that add up to `total`; every such list is as likely."""
    cuts = np.sort(random.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def pairs(rows: Rows, begin: int, cut: Cut) -> tuple[Rows, Rows]:
    """(source, target) of packed rows: each document is cut on its own, and keeps its number on both sides.

    The target's tokens are what the decoder reads, `begin` and all but the last of what it must give, which are its targets. A
    document of one token has no target. Rows are as wide as the longest, padded on the right.
    """
    assert rows.key_B is not None, "only rows with keys are cut the same in every micro-batch"
    tokens_BT, doc_BT = (x.cpu().numpy() for x in (rows.tokens_BT, rows.layout.doc_BT))
    begins_BT = rows.layout.reset_BT.cpu().numpy()
    sides: tuple[list[Any], list[Any]] = [], []
    for key, tokens_T, doc_T, begins_T in zip(rows.key_B.tolist(), tokens_BT, doc_BT, begins_BT, strict=True):
        own = np.flatnonzero(doc_T >= 0)
        edges = [*own[begins_T[own]], (own[-1] + 1 if len(own) else 0)]
        cuts = []
        for number, (start, stop) in enumerate(pairwise(edges)):
            document_N = tokens_T[start:stop]
            cuts.append(cut(document_N, key, number) if len(document_N) > 1 else (document_N, document_N[:0]))
        for side, each in zip(sides, zip(*cuts, strict=True) if cuts else ((), ()), strict=True):
            side.append(each)
    device = rows.tokens_BT.device
    source_BS, layout = _padded(sides[0], device)
    wanted_BT, other = _padded(sides[1], device)
    wanted_BT = torch.where(other.seen_BT, wanted_BT, -1)
    before_BT = torch.where(other.reset_BT, begin, wanted_BT.roll(1, 1)).clamp(min=0)
    return Rows(source_BS, layout, key_B=rows.key_B), Rows(before_BT, other, wanted_BT, rows.key_B)


def _padded(rows: Sequence[Sequence[Ids]], device: Any) -> tuple[torch.Tensor, TokenLayout]:
    """(tokens, layout) of rows of documents, one after the other."""
    width = max(1, *(sum(map(len, documents)) for documents in rows))
    tokens_BT, doc_BT = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1)
    for row, documents in enumerate(rows):
        lengths = [len(document) for document in documents]
        if total := sum(lengths):
            tokens_BT[row, :total] = np.concatenate(documents)
            doc_BT[row, :total] = np.repeat(np.arange(len(documents)), lengths)
    return torch.from_numpy(tokens_BT).to(device), TokenLayout.packed(torch.from_numpy(doc_BT).to(device))
