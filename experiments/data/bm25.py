"""BM25 (Robertson and Zaragoza 2009, in Lucene's form), by the package bm25s: how near documents are to a query by their words."""

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arch.errors import DataError, install

K1, B = 1.5, 0.75
# Where a word ends within a run of letters: readLine, HTTPServer.
JOINTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
LETTERS = re.compile(r"[^\W\d_]+")


def words(text: str) -> list[str]:
    """The words of a text or of code: runs of letters in small letters; names are cut at `_`, digits and inner capitals."""
    return [word.lower() for word in LETTERS.findall(JOINTS.sub(" ", text))]


def scores(queries: Sequence[str], documents: Sequence[str], key: tuple[str, ...] = ("data", "source")) -> Iterator[NDArray[Any]]:
    """Yields the scores (M,) of all documents for each query; 0 where no word is in common. Raises DataError without bm25s.

    key: the key of a spec that asks for it, for the error.
    """
    bm25s = _library(key)
    number: dict[str, int] = {}
    ids = [[number.setdefault(word, len(number)) for word in words(document)] for document in documents]
    if not number:  # the library takes no index without any word
        yield from (np.zeros(len(documents), dtype=np.float32) for _ in queries)
        return
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((ids, number), show_progress=False)
    for query in queries:
        known = [number[word] for word in words(query) if word in number]
        yield index.get_scores_from_ids(known) if known else np.zeros(len(documents), dtype=np.float32)


def version(key: tuple[str, ...]) -> str:
    """The version of bm25s, which may decide the last bits of scores. Raises DataError without it."""
    _library(key)
    return importlib.metadata.version("bm25s")


def _library(key):
    try:
        import bm25s
    except ImportError:
        raise DataError(f"BM25 needs the package bm25s: {install('bm25')}", key) from None
    return bm25s
