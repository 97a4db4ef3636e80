"""Which part of a mixture each batch comes from: drawn by weight, a pure function of the seed and the step."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from experiments.data.draws import GOLDEN, mixed, numbered_key, share

# ((name, weight), ...); one part of weight 1 for data that are no mixture.
Weights = tuple[tuple[str, float], ...]
# So many steps are drawn at once.
BLOCK = 4096


def part_of(weights: Weights, seed: int, step: int) -> tuple[str, int]:
    """(the part that step `step` (from 0) reads, how many earlier steps read it)."""
    if len(weights) == 1:
        return weights[0][0], step
    drawn = _drawn(weights, seed, step // BLOCK + 1)
    return weights[drawn[step]][0], int(np.count_nonzero(drawn[:step] == drawn[step]))


def counts(weights: Weights, seed: int, steps: int) -> dict[str, int]:
    """{part: how many of the first `steps` steps read it}."""
    if len(weights) == 1:
        return {weights[0][0]: steps}
    drawn = _drawn(weights, seed, steps // BLOCK + 1)[:steps]
    return {name: int(np.count_nonzero(drawn == i)) for i, (name, _) in enumerate(weights)}


@lru_cache(maxsize=8)
def _drawn(weights: Weights, seed: int, blocks: int) -> NDArray[np.int64]:
    """The index of the part of each of the first `blocks` blocks of steps. A weight of 0 is never drawn."""
    weight_P = np.array([weight for _, weight in weights])
    bound_P = weight_P.cumsum() / weight_P.sum()
    bound_P[np.flatnonzero(weight_P)[-1] :] = 1.0  # whatever the sum is rounded to
    step_S = np.arange(1, blocks * BLOCK + 1, dtype=np.uint64)
    return np.searchsorted(bound_P, share(mixed(numbered_key(seed) + step_S * GOLDEN)), side="right")


def equal_shares(sizes: list[int], rows: int) -> list[int]:
    """How many of `rows` rows each part gives if all give equally many; a part that has fewer gives all, the others more."""
    shares, left = [0] * len(sizes), rows
    for done, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[i] = min(sizes[i], -(-left // (len(sizes) - done)))
        left -= shares[i]
    return shares
