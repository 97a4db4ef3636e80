"""Where the relevant documents of a query stand among all documents, and what that is worth: MRR, nDCG@k, recall@k.

The rank of a document is 1 plus the number of documents in front of it: those with a higher score, and of those with the same
score the ones with a smaller number. So ties have one order, the same for every model, whatever the size of a chunk; a model
that gives every text the same vector ranks documents as they are numbered.

Shapes: Q queries, B queries of a chunk, N documents, P pairs of a query and a document that is relevant to it, C of a chunk.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The scores (B, N) of some of the queries against all documents. It is called with slices that follow each other.
Scores = Callable[[slice], Tensor]
# The most scores that are held at once.
HELD = 2**22


@dataclass(frozen=True, eq=False)
class Ranked:
    """The ranks of all relevant documents of Q queries, each with at least one.

    query_P: the number of the pair's query. rank_P: the rank of its document, from 1. gain_P: how relevant it is, above 0;
    None where all are alike. A document that is no query's is not relevant to it, so it has no entry.
    Every metric is given query by query, (Q,) float64, and lies in [0, 1]; 1 is a perfect ranking.
    """

    query_P: Tensor
    rank_P: Tensor
    queries: int
    gain_P: Tensor | None = None

    def __post_init__(self) -> None:
        if self.gain_P is not None and not bool((self.gain_P > 0).all()):
            raise ValueError("a gain is above 0; leave out documents that are not relevant")
        if bool((self._sum(torch.ones_like(self.rank_P)) == 0).any()):
            raise ValueError("a query has no relevant document")

    def reciprocal(self) -> Tensor:
        """1 / rank of the best relevant document; its mean over queries is the MRR. No cutoff."""
        best_Q = torch.full((self.queries,), torch.inf, dtype=torch.float64, device=self.rank_P.device)
        return 1 / best_Q.scatter_reduce(0, self.query_P, self.rank_P.double(), "amin")

    def recall(self, k: int) -> Tensor:
        """The share of the relevant documents that stand among the first k."""
        return self._sum(self.rank_P <= k) / self._sum(torch.ones_like(self.rank_P))

    def ndcg(self, k: int) -> Tensor:
        """DCG over that of the best possible ranking; DCG is the sum of gain / log2(1 + rank) over the first k.

        The gain is linear, as in trec_eval (Järvelin and Kekäläinen 2002), and 1 where relevance is binary.
        """
        gain_P = torch.ones_like(self.rank_P).double() if self.gain_P is None else self.gain_P.double()
        return self._sum(_dcg(gain_P, self.rank_P, k)) / self._sum(_dcg(gain_P, self._ideal_ranks(gain_P), k))

    def _ideal_ranks(self, gain_P: Tensor) -> Tensor:
        """The rank of each pair's document if the documents of its query stood in front, the most relevant first."""
        order_P = gain_P.argsort(descending=True, stable=True)
        order_P = order_P[self.query_P[order_P].argsort(stable=True)]
        counts_Q = self._sum(torch.ones_like(self.rank_P)).long()
        first_Q = counts_Q.cumsum(0) - counts_Q
        place_P = torch.arange(len(order_P), device=order_P.device)
        ranks_P = torch.empty_like(place_P)
        ranks_P[order_P] = place_P - first_Q[self.query_P[order_P]] + 1
        return ranks_P

    def _sum(self, values_P: Tensor) -> Tensor:
        """(Q,) float64: the sum over the pairs of each query."""
        sums_Q = torch.zeros(self.queries, dtype=torch.float64, device=values_P.device)
        return sums_Q.index_add(0, self.query_P, values_P.double())


def _dcg(gain_P: Tensor, rank_P: Tensor, k: int) -> Tensor:
    """What each document adds to the DCG of its query."""
    return torch.where(rank_P <= k, gain_P / torch.log2(1 + rank_P.double()), 0.0)


def ranked(scores: Scores, pair_P2: Tensor, queries: int, documents: int, gain_P: Tensor | None = None) -> Ranked:
    """The Ranked of pairs (query, document), each of them once; a chunk of queries at a time, at most HELD scores or one query.

    Raises ValueError for scores that are not finite: they have no order.
    """
    query_P, document_P = pair_P2.unbind(1)
    rank_P = torch.empty_like(query_P)
    index_N = torch.arange(documents, device=pair_P2.device)
    size = max(1, HELD // documents)
    for start in range(0, queries, size):
        scores_BN = scores(slice(start, min(start + size, queries)))
        if not bool(scores_BN.isfinite().all()):
            raise ValueError("scores are not finite, so they rank nothing")
        here_P = ((query_P >= start) & (query_P < start + size)).nonzero()[:, 0]
        for part_C in here_P.split(size):
            scores_CN, document_C1 = scores_BN[query_P[part_C] - start], document_P[part_C, None]
            own_C1 = scores_CN.gather(1, document_C1)
            ahead_CN = (scores_CN > own_C1) | ((scores_CN == own_C1) & (index_N < document_C1))
            rank_P[part_C] = 1 + ahead_CN.sum(1)
    return Ranked(query_P, rank_P, queries, gain_P)


def products(query_QE: Tensor, document_NE: Tensor) -> Scores:
    """The Scores by inner product: cosines, where vectors have length 1. In float32 at least, whatever autocast says."""
    wide = torch.promote_types(query_QE.dtype, torch.float32)
    document_EN = document_NE.to(wide).T

    def scores(part: slice) -> Tensor:
        with torch.autocast(query_QE.device.type, enabled=False):
            return query_QE[part].to(wide) @ document_EN

    return scores


def in_turn(rows: Iterable[Any], device: torch.device | str) -> Scores:
    """The Scores of something that gives the scores (N,) of query after query, as arrays of NumPy."""
    left = iter(rows)
    return lambda part: torch.from_numpy(np.stack(list(islice(left, part.stop - part.start)))).to(device)
