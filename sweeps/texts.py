"""What a difference is for other texts like those that were measured: seeds and documents are both samples.

Verdicts are about the texts of the report split: more seeds say nothing of other texts. This interval takes both as drawn.
Differences of seed s and document d are mean + seed + document + rest, all independent; a document weighs as many tokens as
it has. The variance of the weighted mean is then that over seeds plus that over documents, minus what both contain, the rest
(as for standard errors clustered in two ways: Cameron, Gelbach and Miller 2011). With equal weights it is the two-way
analysis of variance, (MS_seed + MS_document - MS_rest) / (seeds x documents).

Shapes: S seeds, N documents.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# scipy is imported by the function that needs it: a study is planned without it.

# With fewer documents in effect than this, a few texts decide the mean: reports warn.
FEW = 30


@dataclass(frozen=True)
class TextInterval:
    """A mean difference with its interval for new seeds and new texts. documents: effective number. df: of the t interval."""

    mean: float
    low: float
    high: float
    df: float
    documents: float


def effective_number(weights: ArrayLike) -> float:
    """The number of equally heavy documents whose mean would vary as much: (sum w)^2 / sum w^2. 0 without any weight."""
    weights_N = np.asarray(weights, dtype=float)
    return float(weights_N.sum() ** 2 / (weights_N**2).sum()) if weights_N.any() else 0.0


def two_way(differences: ArrayLike, weights: ArrayLike, level: float = 0.05) -> TextInterval | None:
    """The interval of the mean difference for new seeds and new texts; None with fewer than two seeds or documents.

    differences: (S, N), an arm minus the baseline, of each seed and document (its mean over the document's tokens).
    weights: (N,), the tokens of each document. level: how often the interval may miss, both sides together.
    """
    from scipy.special import stdtrit

    d_SN, w_N = np.asarray(differences, dtype=float), np.asarray(weights, dtype=float)
    seeds, w_N = len(d_SN), w_N / w_N.sum()
    if seeds < 2 or np.count_nonzero(w_N) < 2:
        return None
    d_S = d_SN @ w_N
    mean = float(d_S.mean())
    d_N = d_SN.mean(0) - mean
    rest_SN = d_SN - d_S[:, None] - d_N
    size, df_documents = _quadratic(w_N)
    of_seeds = d_S.var(ddof=1) / seeds
    of_documents = (w_N**2 @ d_N**2) * (w_N**2).sum() / size
    of_rest = (rest_SN**2 @ w_N**2).sum() / (seeds * (seeds - 1)) * (w_N**2).sum() / size
    variance = max(of_seeds + of_documents - of_rest, of_seeds, of_documents)
    spread = of_seeds**2 / (seeds - 1) + of_documents**2 / df_documents + of_rest**2 / ((seeds - 1) * df_documents)
    df = variance**2 / spread if spread else seeds - 1.0  # Satterthwaite 1946
    # An interval for more than these texts is not narrower than the one for these: with two or three seeds it would often be,
    # and would then cover too rarely.
    ways = ((df, variance), (seeds - 1.0, of_seeds))
    half, df = max((float(stdtrit(df, 1 - level / 2) * np.sqrt(variance)), float(df)) for df, variance in ways)
    return TextInterval(mean, mean - half, mean + half, df, effective_number(w_N))


def _quadratic(w_N):
    """(trace A, degrees of freedom) of the sum of w^2 (y - weighted mean of y)^2 = y'Ay, for y of equal variance.

    Its expectation is the trace times that variance. The degrees of freedom match its first two moments.
    """
    s2, s3, s4, s5 = (float((w_N**power).sum()) for power in (2, 3, 4, 5))
    trace = s2 - 2 * s3 + s2**2
    trace_of_square = s4 - 4 * s5 + 4 * s2 * s4 + 2 * s3**2 - 4 * s2**2 * s3 + s2**4
    return trace, trace**2 / trace_of_square
