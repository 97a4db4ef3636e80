"""Random numbers of many rows at once; those of a row depend on its key alone, whatever rows are computed beside it.

Number i of the stream with key k is the SplitMix64 mixing of k + i * GOLDEN (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators", section 4), so any part of any stream is computed without what comes before.

Shapes: N rows.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Whole = NDArray[np.int64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def mixed(bits: Bits) -> Bits:
    """Each number as another one, 1 to 1, in which every bit depends on every bit."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> SHIFTS[-1])


def hashed(numbers_NK: Whole, counts_NK: NDArray[np.bool_] | None = None) -> Bits:
    """A hash of each row of whole numbers: 64 bits that depend on every number and its place, (N,).

    counts_NK: which numbers count, by default all; how many others there are changes nothing.
    """
    place_K = mixed(np.arange(1, numbers_NK.shape[1] + 1, dtype=np.uint64) * GOLDEN)
    bits_NK = mixed(numbers_NK.astype(np.uint64) ^ place_K)
    if counts_NK is not None:
        bits_NK = np.where(counts_NK, bits_NK, np.uint64(0))
    return mixed(bits_NK.sum(1, dtype=np.uint64))


def share(bits: Bits) -> NDArray[np.float64]:
    """Each number of 64 bits as a number in [0, 1), of its first 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def numbered_key(number: int) -> np.uint64:
    """The key of a number (a split's, a seed): far from that of the next one."""
    return mixed(np.array([(number + 1) % 2**64], dtype=np.uint64) * GOLDEN)[0]


class Draws:
    """Streams of random numbers, one per row. Every call takes the numbers that follow those taken before.

    key_N: what each row's numbers depend on. split: the split that the rows are of, for whoever needs it.
    """

    def __init__(self, key_N: Bits, split: str = ""):
        self.key_N, self.split, self.taken = key_N, split, 0

    def __len__(self) -> int:
        return len(self.key_N)

    def bits(self, *shape: int) -> Bits:
        """(N, *shape) numbers of 64 bits."""
        count = math.prod(shape)
        index_K = np.arange(self.taken + 1, self.taken + count + 1, dtype=np.uint64)
        self.taken += count
        return mixed(self.key_N[:, None] + index_K * GOLDEN).reshape(len(self.key_N), *shape)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """(N, *shape) numbers in [0, 1)."""
        return share(self.bits(*shape))

    def below(self, high: int | Whole, *shape: int) -> Whole:
        """(N, *shape) whole numbers from 0 to `high` - 1; `high` may be an array that fits the shape."""
        return (self.uniform(*shape) * high).astype(np.int64)

    def among(self, choices: Sequence[int], *shape: int) -> Whole:
        """(N, *shape) of the given numbers, each as probable as the others."""
        return np.asarray(choices, dtype=np.int64)[self.below(len(choices), *shape)]

    def distinct(self, high: int, count: int) -> Whole:
        """(N, count) different whole numbers below `high`, in random order (R. W. Floyd's method, CACM 30(9), 1987)."""
        chosen_NK = np.empty((len(self), count), dtype=np.int64)
        for i, last in enumerate(range(high - count, high)):
            drawn_N = self.below(last + 1)
            repeats_N = (chosen_NK[:, :i] == drawn_N[:, None]).any(1)
            chosen_NK[:, i] = np.where(repeats_N, last, drawn_N)
        return np.take_along_axis(chosen_NK, self.uniform(count).argsort(1), 1)

    def sample(self, weight_K: NDArray[np.floating[Any]], count: int) -> Whole:
        """(N, count) different indices, drawn one after the other in proportion to the weights of those that are left.

        The largest of log weight + Gumbel noise are such a sample (Efraimidis and Spirakis 2006).
        """
        noise_NK = -np.log(-np.log(np.maximum(self.uniform(len(weight_K)), 2.0**-54)))
        return (np.log(weight_K) + noise_NK).argsort(1)[:, ::-1][:, :count]
