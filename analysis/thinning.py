"""Curves with fewer points that look the same: what a large study can still show.

The rule: curves are whole while all curves of a study together have at most POINTS points. Beyond, every curve keeps the same
number of points, at least FEWEST. Kept are the first, the last and the smallest value, and of each of equal stretches
between them the point that spans the largest triangle with its neighbours (Steinarsson 2013, "Downsampling time series for
visual representation", section 4.2), so that spikes stay.
"""

from itertools import pairwise

import numpy as np

POINTS = 400_000
FEWEST = 24


def most_points(curves: int, points: int) -> int | None:
    """How many points each of a study's curves may keep; None while they may be whole. points: of all curves together."""
    return None if points <= POINTS else max(FEWEST, POINTS // max(1, curves))


def thinned(x_N: np.ndarray, y_N: np.ndarray, most: int | None) -> np.ndarray:
    """The indices of the points to keep, ascending; all of them if there are at most `most`, or if that is None.

    x must ascend; y must be finite. Shapes: N points.
    """
    n = len(x_N)
    if most is None or n <= most:
        return np.arange(n)
    edges = np.linspace(1, n - 1, max(most, FEWEST) - 2, dtype=int)  # one stretch fewer, for the smallest value
    middles = [(x_N[low:high].mean(), y_N[low:high].mean()) for low, high in pairwise(edges)]
    middles.append((x_N[-1], y_N[-1]))
    kept = [0]
    for i, (low, high) in enumerate(pairwise(edges)):
        (x0, y0), (x2, y2) = (x_N[kept[-1]], y_N[kept[-1]]), middles[i + 1]
        area = np.abs((x0 - x2) * (y_N[low:high] - y0) - (x0 - x_N[low:high]) * (y2 - y0))
        kept.append(low + int(area.argmax()))
    return np.unique([*kept, int(y_N.argmin()), n - 1])
