"""Pairs as a test collection: distinct queries, distinct documents, and which document answers which query.

Texts decide, not pairs: a document that several pairs share is one candidate, and a query that several pairs share has several
relevant documents. The candidates are the positives of all pairs. Hard negatives are none: they are mined for training, and
arms with and without them must rank the same documents.

Shapes: Q queries, N documents, P pairs.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from arch.contracts import Documents
from experiments.data.pair import Pair

# Of the labels, those with the most queries; the others count together.
MOST = 12
OTHERS = "others"


@dataclass(frozen=True, eq=False)
class Collection:
    """queries, documents: distinct texts. pair_P2: int64, the numbers of a query and of a document that answers it, each once.

    about_Q, about_N: a pair that each query, and each document, is of; the first of several.
    """

    queries: list[str]
    documents: list[str]
    pair_P2: Tensor
    about_Q: list[Pair]
    about_N: list[Pair]

    @property
    def answers(self) -> list[int]:
        """The number of the first document that answers each query."""
        first = dict(reversed(self.pair_P2.tolist()))
        return [first[query] for query in range(len(self.queries))]


def of(pairs: Sequence[Pair], rows: int | None = None) -> Collection:
    """The Collection of pairs. rows: at most so many of the queries, chosen by the digest of their text; all documents stay."""
    asked: dict[str, Pair] = {}
    answering: dict[str, Pair] = {}
    for pair in pairs:
        asked.setdefault(pair.query, pair)
        answering.setdefault(pair.positive, pair)
    chosen = list(asked) if rows is None else sorted(asked, key=digest)[:rows]
    queries, documents = ({text: number for number, text in enumerate(texts)} for texts in (chosen, answering))
    related = dict.fromkeys((queries[pair.query], documents[pair.positive]) for pair in pairs if pair.query in queries)
    pair_P2 = torch.tensor(list(related), dtype=torch.int64).view(-1, 2)
    return Collection(chosen, list(answering), pair_P2, [asked[text] for text in chosen], list(answering.values()))


def by_part(pairs: Iterable[Pair], rows: int | None = None) -> dict[str, Collection]:
    """{part of the mixture: its Collection}: a query ranks the documents of its own part. Data that are no mixture are one part."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(pair.part, []).append(pair)
    return {part: of(of_part, rows) for part, of_part in parts.items()}


def in_order(pairs: Iterable[Pair], of: Literal["query", "document"]) -> dict[str, Pair]:
    """{text: the first pair that it is of}, queries or documents, in the order of their digests."""
    found: dict[str, Pair] = {}
    for pair in pairs:
        found.setdefault(pair.query if of == "query" else pair.positive, pair)
    return {text: found[text] for text in sorted(found, key=digest)}


def digest(text: str) -> str:
    """A digest of a text: an order of texts that has nothing to do with where they stand."""
    return hashlib.sha256(text.encode()).hexdigest()


def units(about_Q: Sequence[Pair]) -> tuple[str, list[str]]:
    """(what they are called, the unit of each query): what it is a sample of together with others.

    Its group; its positive where it has none, or where all have the same.
    """
    several = len({(pair.part, pair.group) for pair in about_Q if pair.group}) > 1
    own = [pair.group if several and pair.group else digest(pair.positive) for pair in about_Q]
    named = [f"{pair.part}: {unit}" if pair.part else unit for pair, unit in zip(about_Q, own, strict=True)]
    return "groups" if several else "documents", named


def by_unit(about_Q: Sequence[Pair], weight_Q: Tensor, measured: Mapping[str, Tensor]) -> Documents:
    """What was measured of each unit's queries, and of all queries but those. measured: {metric: (Q,)}, query by query.

    So that a report can say what a mean is for other queries like these: queries of one group are not independent.
    """
    called, unit_of = units(about_Q)
    names, unit_Q = np.unique(np.asarray(unit_of, dtype=str), return_inverse=True)
    weights = np.bincount(unit_Q, weight_Q.cpu().numpy())
    sums = {name: np.bincount(unit_Q, (weight_Q * values_Q).cpu().numpy()) for name, values_Q in measured.items()}
    rest = weights.sum() - weights
    several = len(names) > 1
    return Documents(
        names=names.tolist(),
        sums={name: each.tolist() for name, each in sums.items()},
        weights={name: weights.tolist() for name in sums},
        without={name: ((each.sum() - each) / rest).tolist() for name, each in sums.items()} if several else {},
        called=called,
    )


def by_label(labels: Sequence[str], values_Q: Tensor) -> Iterator[tuple[str, int, float]]:
    """Yields (label, queries, mean of their values) of the MOST labels with the most queries, then of OTHERS.

    Labels stand in the order of the alphabet; of labels with as many queries, the first in it are kept.
    """
    kept = sorted({*labels}, key=lambda label: (-labels.count(label), label))[:MOST]
    named = [label if label in kept else OTHERS for label in labels]
    for label in [*sorted(kept), *([OTHERS] if OTHERS in named and OTHERS not in kept else [])]:
        mine_Q = torch.tensor([each == label for each in named], device=values_Q.device)
        yield label, int(mine_Q.sum()), float(values_Q[mine_Q].mean())
