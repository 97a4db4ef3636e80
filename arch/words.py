"""Lists and plurals in sentences."""

from collections.abc import Iterable

MOST = 12


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`; of more than MOST, the first ones and how many more there are."""
    words = list(words)
    if len(words) > MOST + 1:
        words = [*words[:MOST], f"{len(words) - MOST} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def times(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
