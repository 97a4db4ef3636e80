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
    return thinned_each(x_N, y_N[None], most)[0]


def thinned_each(x_N: np.ndarray, y_CN: np.ndarray, most: int | None) -> list[np.ndarray]:
    """`thinned` of C curves with the same x, which takes hardly longer than of one."""
    curves, n = y_CN.shape
    if most is None or n <= most:
        return [np.arange(n)] * curves
    edges = np.linspace(1, n - 1, max(most, FEWEST) - 2, dtype=int)  # one stretch fewer, for the smallest value
    x_M = [*(np.add.reduceat(x_N[: n - 1], edges[:-1]) / np.diff(edges)), x_N[-1]]
    y_MC = [*(np.add.reduceat(y_CN[:, : n - 1], edges[:-1], axis=1) / np.diff(edges)).T, y_CN[:, -1]]
    kept_CK, each = np.zeros((curves, len(edges)), dtype=int), np.arange(curves)
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        x0_C1, y0_C1 = x_N[kept_CK[:, i], None], y_CN[each, kept_CK[:, i], None]
        rise_CS, run_CS = y_CN[:, low:high] - y0_C1, x0_C1 - x_N[low:high]
        area_CS = np.abs((x0_C1 - x_M[i + 1]) * rise_CS - run_CS * (y_MC[i + 1][:, None] - y0_C1))
        kept_CK[:, i + 1] = low + area_CS.argmax(axis=1)
    return [np.unique([*kept, smallest, n - 1]) for kept, smallest in zip(kept_CK.tolist(), y_CN.argmin(axis=1), strict=True)]
