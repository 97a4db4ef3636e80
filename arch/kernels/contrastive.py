"""Losses on the vectors of pairs: contrastive, spread-out, matching to a teacher (EmbeddingGemma, arXiv 2509.20354, section 2.2).

Every function normalises the vectors that it is given and returns a number per row; the paper's loss is the mean over rows.
All is computed in float32, or in float64 where vectors are float64, whatever is around it (autocast, rounded products): at a
temperature of 0.05, rounding a cosine to bfloat16 changes a logit by up to 0.04.

Shapes: B rows, each a query, its positive and maybe one hard negative; E width of the vectors, F of a
teacher's, J entries of a denominator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from arch.kernels import products

Distance = Literal["l2", "cosine"]


@contextmanager
def _exact(x: Tensor) -> Iterator[None]:
    """Context manager: products as exact as the type of their factors."""
    with products.exact(), torch.autocast(x.device.type, enabled=False):
        yield


def unit(x_BE: Tensor) -> Tensor:
    """Vectors of length 1, in float32 at least. A vector of zeros stays one, with a gradient of 0."""
    return F.normalize(x_BE.to(torch.promote_types(x_BE.dtype, torch.float32)), dim=-1)


def same_texts(query_B: Tensor, positive_B: Tensor) -> Tensor:
    """(B, B): whether two rows have the same query or the same positive, by the numbers of their texts.

    By text and not by vector: randomness in a model makes equal texts differ.
    """
    return (query_B[:, None] == query_B) | (positive_B[:, None] == positive_B)


def nce(
    query_BE: Tensor,
    positive_BE: Tensor,
    negative_BE: Tensor | None,
    same_BB: Tensor,
    temperature: float,
    hardness: float = 0.0,
) -> Tensor:
    """(B,) nats: -log of the positive's share among what query i could be taken to mean,

        e^(s(q_i, p_i) / T) / ( w_i e^(s(q_i, n_i) / T) + sum over j of [j = i or not same_ij] e^(s(q_i, p_j) / T) )

    with s the cosine, T the temperature and w_i = e^(hardness s(q_i, n_i)), which has no gradient (the weights of
    LLaVE, arXiv 2503.04812, here of the row's own hard negative alone, the only one in its denominator). Read literally, the
    paper's mask, 0 where texts are equal, drops the positive itself, j = i; here it stays, as in Gemini Embedding 2.
    """
    query_BE, positive_BE = unit(query_BE), unit(positive_BE)
    with _exact(query_BE):
        logits_BB = query_BE @ positive_BE.T / temperature
    among_BJ = logits_BB.masked_fill(_others(same_BB), -torch.inf)
    if negative_BE is not None:
        cosine_B1 = (query_BE * unit(negative_BE)).sum(1, keepdim=True)
        among_BJ = torch.cat([among_BJ, cosine_B1 / temperature + hardness * cosine_B1.detach()], 1)
    return among_BJ.logsumexp(1) - logits_BB.diagonal()


def nearest(query_BE: Tensor, positive_BE: Tensor, same_BB: Tensor) -> Tensor:
    """(B,) bool: whether the row's positive is nearer to its query than every other row's, those of the same text left out.

    One that shares its place with another is not counted: a model that gives one vector for everything is not right.
    """
    query_BE, positive_BE = unit(query_BE), unit(positive_BE)
    with _exact(query_BE):
        cosine_BB = query_BE @ positive_BE.T
    return (cosine_BB.masked_fill(same_BB, -torch.inf) < cosine_BB.diagonal()[:, None]).all(1)


def spread_out(x_BE: Tensor) -> Tensor:
    """(B,): the mean over j != i of (x_i . x_j)^2, the second moment of the spread-out regulariser (Zhang et al. 2017).

    EmbeddingGemma adds that of queries and that of positives. It subtracts nothing: vectors spread evenly over the sphere
    have 1/E. Its formula does not say that vectors are normalised; its text compares them with points on the sphere.
    0 where there is no other row.
    """
    x_BE = unit(x_BE)
    with _exact(x_BE):
        cosine_BB = x_BE @ x_BE.T
    others = max(1, len(x_BE) - 1)
    return cosine_BB.square().masked_fill(_diagonal(cosine_BB), 0.0).sum(1) / others


def matching(x_BE: Tensor, teacher_BF: Tensor, distance: Distance = "l2", map_EF: Tensor | None = None) -> Tensor:
    """(B,): how far each vector is from its teacher's. The paper writes no distance, so there are two:

    `l2`      |x - t|^2 of the normalised vectors
    `cosine`  1 - x . t, which is half of it: the choice only scales the term's weight

    map_EF: from the width of the vectors to that of the teacher's, where they differ. Nothing of the teacher has a gradient.
    """
    if map_EF is not None:
        x_BE = unit(x_BE)
        with _exact(x_BE):
            x_BE = x_BE @ map_EF.to(x_BE)
    squared_B = (unit(x_BE) - unit(teacher_BF.detach())).square().sum(1)
    return squared_B if distance == "l2" else squared_B / 2


def _diagonal(x_BB: Tensor) -> Tensor:
    return torch.eye(len(x_BB), dtype=torch.bool, device=x_BB.device)


def _others(same_BB: Tensor) -> Tensor:
    """Rows of the same text, but for the row itself."""
    return same_BB & ~_diagonal(same_BB)
