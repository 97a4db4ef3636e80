"""BM25 on the same texts: what words alone find, the baseline that a small encoder has to beat.

BM25 as Lucene computes it, k1 = 1.5, b = 0.75, by the package `bm25s` (extra `bm25`). Words are runs of letters in lower
case, of every alphabet; names are split at underscores and at capital letters inside: `read_JSONFile` is `read json file`.

Shapes: B queries of a chunk, N documents.
"""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.ranking import Scores

PACKAGE, EXTRA = "bm25s", "bm25"
K1, B = 1.5, 0.75
# A run of letters; inside of it a word ends before a capital that follows a small letter, and before the last of several
# capitals if a small letter follows it.
LETTERS = re.compile(r"[^\W\d_]+")
INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.lower() for run in LETTERS.findall(text) for word in INSIDE.split(run)]


def scores(queries: Sequence[str], documents: Sequence[str], device: Any) -> Scores:
    """The Scores of BM25. A query none of whose words is in a document has the score 0 everywhere: ties, in their usual order."""
    import bm25s

    each = [words(text) for text in documents]
    vocabulary = {word: number for number, word in enumerate(sorted({word for document in each for word in document}))}
    index = bm25s.BM25(method="lucene", k1=K1, b=B) if vocabulary else None
    if index is not None:
        index.index(([[vocabulary[word] for word in document] for document in each], vocabulary), show_progress=False)

    def of(part: slice) -> Tensor:
        rows = []
        for text in queries[part]:
            known = [word for word in words(text) if word in vocabulary]
            row = index.get_scores(known) if index is not None and known else [0.0] * len(documents)
            rows.append(torch.as_tensor(row, dtype=torch.float32))
        return torch.stack(rows).to(device)

    return of
