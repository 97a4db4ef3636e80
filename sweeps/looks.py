"""When a study may be read, and how much of the error of 5 % each reading may spend.

A study states its *looks* before it runs: the numbers of seeds at which its verdicts may be read. Reading more often
without paying for it makes false verdicts likelier, so the error is *spent* over the looks by alpha spending of the power
family (Kim & DeMets 1987) with exponent 3: at the look with n of N seeds, the part (n/N)^3 of it is spent. Each look
tests at what is newly spent, so the union bound holds the level for t tests of any n. It is divided by the number of
questions that all claims of the study ask (Bonferroni), so that all verdicts of a report together are wrong with a
probability of at most 5 %. docs/statistics.md has the simulated levels.
"""

import math
from itertools import pairwise

ALPHA = 0.05
GROWTH, EXPONENT = 1.5, 3


def looks(least, most):
    """Numbers of seeds, from `least` to `most`, each half as many again as the one before."""
    numbers = [least]
    while numbers[-1] < most:
        numbers.append(min(most, math.ceil(GROWTH * numbers[-1])))
    return tuple(numbers)


def levels(numbers, questions=1, alpha=ALPHA):
    """The level of one question at each look of `looks()`; they add up to alpha / questions."""
    spent = [(number / numbers[-1]) ** EXPONENT for number in (0, *numbers)]
    return tuple(alpha / max(1, questions) * (after - before) for before, after in pairwise(spent))
