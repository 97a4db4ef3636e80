"""Mixtures as points of a unit cube: weights that add up to 1, so that samplers of numbers can search them.

Stick-breaking (Sethuraman 1994). The first part takes a share of the whole, the next one a share of what is left, and so on;
the last takes the rest. Of K parts with Dirichlet(c, ..., c), share i has a Beta(c, c (K - i)) distribution, independent of
the others. So coordinate i is the quantile of its share: uniform coordinates are Dirichlet weights, every mixture has its
coordinates, and near coordinates are near mixtures.

EmbeddingGemma (2025, section 2.3) and Gemini Embedding (2025) begin their search for mixtures with Dirichlet draws.
"""

from __future__ import annotations

from collections.abc import Sequence

# A share so near to nothing or to all is that: samplers that go to a corner twice are to mean one mixture, and one run.
NEGLIGIBLE = 1e-12
# The number of the rule by which coordinates become weights. Trials of an older rule mean other mixtures: another search.
RULE = 2


def weights(coordinates: Sequence[float], concentration: float) -> list[float]:
    """K weights, at least 0 and together 1, from K - 1 coordinates between 0 and 1. concentration: c, above 0."""
    found, left = [], 1.0
    for i, coordinate in enumerate(coordinates):
        share = _quantile(coordinate, concentration, concentration * (len(coordinates) - i))
        share = round(share) if min(share, 1 - share) < NEGLIGIBLE else share
        found.append(left * share)
        left *= 1 - share
    return [*found, left]


def coordinates(weights: Sequence[float], concentration: float) -> list[float]:
    """The inverse of `weights`. Where nothing is left to share, any coordinate gives the same weights: it is 0.5."""
    found, left = [], 1.0
    for i, weight in enumerate(weights[:-1]):
        share = min(weight / left, 1.0) if left > 0 else None
        found.append(0.5 if share is None else _probability(share, concentration, concentration * (len(weights) - 1 - i)))
        left -= weight
    return found


def _quantile(probability, a, b):
    from scipy.special import betaincinv

    return float(betaincinv(a, b, probability))


def _probability(share, a, b):
    from scipy.special import betainc

    return float(betainc(a, b, share))
