"""The whole number at which a function that rises or falls comes nearest to zero, in few evaluations.

The function may be undefined at some numbers (a width that the heads do not divide) and level over a stretch (a window that
is longer than the context).
"""

from collections.abc import Callable
from dataclasses import dataclass

# So many numbers in a row may be undefined.
REACH = 64
# No number above this is tried.
LARGEST = 2**20

Gap = Callable[[int], float | None]


@dataclass(frozen=True)
class Nearest:
    """best: the number at which the gap is smallest; None where it is defined nowhere near the start.

    other: the best one on the other side of zero, or where there is none, the next best. moves: whether the gap changes at all.
    """

    best: int | None
    other: int | None = None
    moves: bool = True


def nearest(gap: Gap, start: int) -> Nearest:
    """The Nearest of a function of whole numbers of at least 1, searched from `start` on. gap: None where it is undefined.

    It halves and doubles the number until the sign changes and then halves the interval: about 2 log2 evaluations. Where the
    function neither rises nor falls throughout, no neighbour of the result is nearer to zero.
    """
    known: dict[int, float | None] = {}

    def at(number: int) -> float | None:
        if number not in known:
            known[number] = gap(number)
        return known[number]

    first = _defined(at, start, 1, LARGEST) or _defined(at, start - 1, -1, 1)
    if first is None:
        return Nearest(None)
    if at(first) == 0:
        return Nearest(first)
    upwards = _upwards(at, first)
    if upwards is None:
        return Nearest(first, moves=False)
    ends = _bracket(at, first, upwards)
    best = _descended(at, min(_bisected(at, *ends), key=lambda number: abs(at(number) or 0)))
    others = [number for number, value in known.items() if value is not None and number != best]
    across = [number for number in others if _side(at(number)) != _side(at(best))]
    return Nearest(best, min(across or others, key=lambda number: abs(at(number) or 0), default=None))


def _defined(at: Gap, number: int, step: int, last: int) -> int | None:
    """The first number from `number` on, in steps of 1 or -1, at which the function is defined; None if there is none near."""
    for tried in range(number, number + step * REACH, step):
        if tried < 1 or tried > LARGEST or (tried - last) * step > 0:
            return None
        if at(tried) is not None:
            return tried
    return None


def _side(value: float | None) -> bool:
    return (value or 0) > 0


def _doubled(at: Gap, number: int) -> int | None:
    return _defined(at, 2 * number, 1, LARGEST) or _defined(at, number + 1, 1, 2 * number)


def _halved(at: Gap, number: int) -> int | None:
    return (_defined(at, number // 2, -1, 1) or _defined(at, number - 1, -1, number // 2)) if number > 1 else None


def _upwards(at: Gap, first: int) -> bool | None:
    """Whether zero lies above `first`; None if the function is level around it."""
    for other, above in ((_doubled(at, first), True), (_halved(at, first), False)):
        change = 0.0 if other is None else (at(other) or 0) - (at(first) or 0)
        if change:
            return ((change > 0) == above) != _side(at(first))
    return None


def _bracket(at: Gap, first: int, upwards: bool) -> tuple[int, int]:
    """(low, high) with zero between them, or else the last two numbers before the end of what can be reached."""
    here = first
    while (further := _doubled(at, here) if upwards else _halved(at, here)) is not None and at(further) != at(here):
        if _side(at(further)) != _side(at(here)):
            return min(here, further), max(here, further)
        here = further
    return here, here


def _bisected(at: Gap, low: int, high: int) -> tuple[int, int]:
    """The two neighbours among the defined numbers between which the sign changes."""
    while high - low > 1:
        middle = (low + high) // 2
        found = _defined(at, middle, -1, low + 1) or _defined(at, middle + 1, 1, high - 1)
        if found is None:
            break
        low, high = (found, high) if _side(at(found)) == _side(at(low)) else (low, found)
    return low, high


def _descended(at: Gap, best: int) -> int:
    """The number from which no defined neighbour is nearer to zero."""
    while True:
        beside = (_defined(at, best + 1, 1, LARGEST), _defined(at, best - 1, -1, 1))
        nearer = min((n for n in beside if n is not None), key=lambda number: abs(at(number) or 0), default=best)
        if abs(at(nearer) or 0) >= abs(at(best) or 0):
            return best
        best = nearer
