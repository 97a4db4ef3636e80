"""A split of pairs as a test collection: distinct queries, distinct documents, and which document answers which query.

Texts decide, not pairs: a document that several pairs share is one candidate, and a query that several pairs share has several
relevant documents. The candidates are the positives of all pairs of the split. Hard negatives are none: they are mined for
training, and arms with and without them must rank the same documents.

Shapes: Q queries, N documents, P pairs.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from arch.contracts import Documents

# Of the labels, those with the most queries; the others count together.
MOST = 12
OTHERS = "others"


class Pair(Protocol):
    """What is read of a pair of texts (`experiments.data.pairs.Pair`)."""

    query: str
    positive: str
    group: str
    label: str


@dataclass(frozen=True, eq=False)
class Collection:
    """queries, documents: distinct texts. pair_P2: int64, the numbers of a query and of a document that answers it, each once.

    unit_Q: what a query is a sample of together with others: its group, or where a split has only one, the query itself.
    label_Q: the label of each query, empty where there is none.
    """

    queries: list[str]
    documents: list[str]
    pair_P2: Tensor
    unit_Q: list[str]
    label_Q: list[str]

    @property
    def answer_Q(self) -> list[int]:
        """The number of the first document that answers each query."""
        first = {query: document for query, document in reversed(self.pair_P2.tolist())}
        return [first[query] for query in range(len(self.queries))]


def of(pairs: Iterable[Pair], rows: int | None = None, by: Literal["label", "group"] = "label") -> Collection:
    """The Collection of pairs. rows: so many of the queries, chosen by the digest of their text; all documents stay.

    by: what of a pair is its label. Of a query with several pairs, group and label are those of the first.
    """
    pairs = list(pairs)
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.query, pair)
    chosen = list(first) if rows is None else sorted(first, key=digest)[:rows]
    queries = {text: number for number, text in enumerate(chosen)}
    documents: dict[str, int] = {}
    for pair in pairs:
        documents.setdefault(pair.positive, len(documents))
    related = dict.fromkeys((queries[pair.query], documents[pair.positive]) for pair in pairs if pair.query in queries)
    groups = [first[text].group for text in chosen]
    units = groups if len({*groups}) > 1 else [digest(text) for text in chosen]
    labels = [getattr(first[text], by) for text in chosen]
    return Collection(list(queries), list(documents), torch.tensor(list(related), dtype=torch.int64).view(-1, 2), units, labels)


def digest(text: str) -> str:
    """A digest of a text: an order of texts that has nothing to do with where they stand."""
    return hashlib.sha256(text.encode()).hexdigest()


def common(labels: Sequence[str]) -> list[str]:
    """Each label, or OTHERS in place of those beyond the MOST most frequent (of as many, the first in the alphabet)."""
    kept = sorted({*labels}, key=lambda label: (-labels.count(label), label))[:MOST]
    return [label if label in kept else OTHERS for label in labels]


def by_unit(collection: Collection, measured: Mapping[str, Tensor]) -> Documents:
    """What was measured of the queries of each unit, and of all queries but those. measured: {metric: (Q,)}, query by query.

    So that a report can say what a mean is for other queries like these: queries of one group are not independent.
    """
    names, unit_Q = np.unique(np.asarray(collection.unit_Q, dtype=str), return_inverse=True)
    counts = np.bincount(unit_Q).astype(float)
    sums = {name: np.bincount(unit_Q, values_Q.cpu().numpy()) for name, values_Q in measured.items()}
    rest = counts.sum() - counts
    return Documents(
        names=names.tolist(),
        sums={name: each.tolist() for name, each in sums.items()},
        weights={name: counts.tolist() for name in sums},
        without={name: ((each.sum() - each) / rest).tolist() for name, each in sums.items()} if (rest > 0).all() else {},
    )


def per_label(labels: Sequence[str], values_Q: Tensor) -> Iterable[tuple[str, int, float]]:
    """Yields (label, queries, mean of their values), labels in the order of the alphabet and OTHERS last."""
    number: Callable[[str], tuple[bool, str]] = lambda label: (label == OTHERS, label)  # noqa: E731
    for label in sorted({*labels}, key=number):
        mine = torch.tensor([each == label for each in labels], device=values_Q.device)
        yield label, int(mine.sum()), float(values_Q[mine].mean())
