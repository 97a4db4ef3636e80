"""Hard negatives: for each training pair, the positives of other pairs that are nearest to its query and yet not right.

Candidates are the positives of the train split, each once. False ones are removed by text: whatever is a positive of the same
query, and the query itself; white space and case do not count. Nothing is taken from another split.

Shapes: N pairs, M candidates, D width of a vector.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arch.errors import DataError
from arch.words import times
from experiments.data import bm25
from experiments.data.pair import Negatives, Pair, Part

# Similarities of so many queries at once with all candidates.
CHUNK = 256
# Where nothing is near a query, its negatives are drawn; a pure function of its number.
DRAWN_SEED = 0

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Mined:
    """texts: the k hard negatives of each pair. remarks: sentences for a run's record."""

    texts: list[tuple[str, ...]]
    remarks: list[str]


def decides(options: Negatives, place: tuple[str, ...]) -> dict[str, Any]:
    """What decides the hard negatives beside the pairs, as plain data. Raises DataError for what is not there.

    place: the keys of the spec below which `negatives` is.
    """
    if options.by == "bm25":
        return options.dump() | {"bm25s": bm25.version((*place, "negatives", "by"))}
    from experiments.data import mining_encoder

    files = mining_encoder.content(str(options.checkpoint), (*place, "negatives", "checkpoint"))
    return options.dump() | {"checkpoint": files}  # what is in the folder, not where it is


def mine(pairs: Sequence[Pair], part: Part, place: tuple[str, ...]) -> Mined:
    """The hard negatives of these pairs, all of one split and one part. Raises DataError."""
    options = part.negatives
    assert options is not None
    if any(pair.negatives for pair in pairs):
        raise DataError(
            "the pairs have hard negatives already; expected null (of a source of files, columns.negatives: null leaves them out)",
            (*place, "negatives"),
        )
    candidates = list(dict.fromkeys(pair.positive for pair in pairs))
    queries = [pair.query for pair in pairs]
    if options.by == "bm25":
        scores: Iterator[Scores] = bm25.scores(queries, candidates)
        nothing = 0.0  # no word in common
    else:
        from experiments.data import mining_encoder

        key = (*place, "negatives", "checkpoint")
        scores = similarities(*mining_encoder.vectors(str(options.checkpoint), queries, candidates, key))
        nothing = -math.inf
    return chosen(pairs, candidates, scores, options, place, nothing)


def similarities(query_ND: torch.Tensor, candidate_MD: torch.Tensor) -> Iterator[Scores]:
    """The products of each query's vector with those of all candidates, (M,), query by query; cosines where their norm is 1."""
    for first in range(0, len(query_ND), CHUNK):
        yield from (query_ND[first : first + CHUNK] @ candidate_MD.T).numpy()


def chosen(
    pairs: Sequence[Pair],
    candidates: Sequence[str],
    scores: Iterator[Scores],
    options: Negatives,
    place: tuple[str, ...],
    nothing_in_common: float,
) -> Mined:
    """The k candidates with the highest scores for each pair, of those that may be negatives; equal scores in their order.

    scores: of each pair's query with every candidate (M,). nothing_in_common: a candidate with this score is not near. Where fewer
    than k are left, others are drawn from the rest, and a remark says how often. Raises
    DataError where there are too few candidates.
    """
    right, number = _right(pairs), _numbers(candidates)
    found, drawn = [], 0
    for i, (pair, score_M) in enumerate(zip(pairs, scores, strict=True)):
        false = sorted({each for text in (*right[_same(pair.query)], _same(pair.query)) for each in number.get(text, ())})
        if len(candidates) - len(false) < options.k:
            have = f"the train split has {times(len(candidates), 'different positive')}, {len(false)} of them right for one query"
            raise DataError(f"{times(options.k, 'hard negative')} per pair: {have}; expected fewer", (*place, "negatives", "k"))
        allowed_M = np.ones(len(candidates), dtype=bool)
        allowed_M[false] = False
        open_M = allowed_M & (score_M > nothing_in_common)
        if options.below is not None:
            open_M = open_M & (score_M <= options.below * score_M[number[_same(pair.positive)][0]])
        best = _highest(score_M, np.flatnonzero(open_M), options.k)
        if len(best) < options.k:
            rest = np.setdiff1d(np.flatnonzero(allowed_M), best)
            drawn += 1
            best = [*best, *np.random.default_rng([DRAWN_SEED, i]).permutation(rest)[: options.k - len(best)]]
        found.append(tuple(candidates[each] for each in best))
    why = "too few other positives near them" if options.below is not None else "too few words in common with other positives"
    remarks = [f"hard negatives by {options.by}: for {drawn:,} of {len(pairs):,} training pairs, some are drawn at random: {why}"]
    return Mined(found, remarks if drawn else [])


def _highest(score_M: Scores, open_K: NDArray[np.int64], k: int) -> list[int]:
    """The k of these candidates with the highest scores, those of equal scores in their order."""
    if len(open_K) > k:
        least = np.partition(score_M[open_K], -k)[-k]
        open_K = open_K[score_M[open_K] >= least]
    return [int(each) for each in open_K[np.argsort(-score_M[open_K], kind="stable")][:k]]


def _same(text: str) -> str:
    """A text as it is compared: without case, with single spaces."""
    return " ".join(text.casefold().split())


def _right(pairs):
    """{query: its positives}, as they are compared."""
    right: dict[str, set[str]] = {}
    for pair in pairs:
        right.setdefault(_same(pair.query), set()).add(_same(pair.positive))
    return right


def _numbers(candidates):
    """{text as it is compared: the numbers of the candidates that are the same}."""
    numbers: dict[str, list[int]] = {}
    for i, text in enumerate(candidates):
        numbers.setdefault(_same(text), []).append(i)
    return numbers
