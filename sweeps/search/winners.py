"""Which trials of a search become arms: the best ones, or those that span the front best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A feasible trial that finished. identity: of its experiment. harms: one number per objective, lower is better."""

    number: int
    identity: str
    harms: tuple[float, ...]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is at least as good as b in every objective and better in one; lower is better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first trial of each experiment."""
    seen: dict[str, Candidate] = {}
    for each in sorted(candidates, key=lambda each: each.number):
        seen.setdefault(each.identity, each)
    return list(seen.values())


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The distinct candidates that no other dominates, from the best in the first objective on."""
    those = distinct(candidates)
    kept = [each for each in those if not any(dominates(other.harms, each.harms) for other in those)]
    return sorted(kept, key=lambda each: (each.harms, each.number))


def chosen(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The candidates that become arms, at most `count`, from the best in the first objective on.

    One objective: the best ones. Several: those of the Pareto front whose union dominates the largest volume, taken one
    by one, each adding the most (greedy hypervolume; Guerreiro, Fonseca & Paquete 2016). Objectives are scaled to [0, 1]
    over the front, the reference lies at 1.1 of each. Where the front is smaller than `count`, the front of the rest
    follows.
    """
    left, taken = distinct(candidates), list[Candidate]()
    while left and len(taken) < count:
        layer = front(left)
        if len(layer[0].harms) == 1:
            # One objective: a layer is the best one, or several that are equal.
            taken += layer[: count - len(taken)]
        else:
            taken += _spanning(layer, count - len(taken))
        numbers = {each.number for each in layer}
        left = [each for each in left if each.number not in numbers]
    return sorted(taken, key=lambda each: (each.harms, each.number)) if candidates and len(candidates[0].harms) > 1 else taken


REFERENCE = 1.1


def _spanning(layer, count):
    points = _scaled([each.harms for each in layer])
    picked: list[int] = []
    while len(picked) < min(count, len(layer)):
        rest = [i for i in range(len(layer)) if i not in picked]
        gains = {i: volume([points[j] for j in (*picked, i)]) for i in rest}
        picked.append(max(rest, key=lambda i: (gains[i], -i)))
    return [layer[i] for i in picked]


def _scaled(harms):
    """Points scaled to [0, 1] in every objective."""
    lows = [min(values) for values in zip(*harms, strict=True)]
    highs = [max(values) for values in zip(*harms, strict=True)]
    spans = [high - low or 1.0 for low, high in zip(lows, highs, strict=True)]
    return [tuple((x - low) / span for x, low, span in zip(point, lows, spans, strict=True)) for point in harms]


def volume(points: Sequence[Sequence[float]], reference: float = REFERENCE) -> float:
    """The volume that points dominate below the reference in every direction.

    By slices along the last objective: exact, and fast enough for the tens of points of a front.
    """
    inside = [point for point in points if all(x < reference for x in point)]
    if not inside:
        return 0.0
    if len(inside[0]) == 1:
        return reference - min(point[0] for point in inside)
    inside = sorted(inside, key=lambda point: point[-1])
    ends = [*(point[-1] for point in inside[1:]), reference]
    parts = []
    for n, (point, end) in enumerate(zip(inside, ends, strict=True), start=1):
        if end > point[-1]:
            parts.append((end - point[-1]) * volume([other[:-1] for other in inside[:n]], reference))
    return math.fsum(parts)
