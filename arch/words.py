"""Lists and plurals in sentences; texts of others made safe to print."""

import unicodedata
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


def visible(text: str, one_line: bool = False) -> str:
    """A text with its control characters shown, not written: ESC as `\\x1b`; line breaks and tabs stay, unless it is for one line.

    Also marks that turn the direction of what follows, and halves of surrogate pairs, which no file can hold.
    """
    return text if text.isprintable() else "".join(_shown(char, "" if one_line else "\n\t") for char in text)


def _shown(char: str, kept: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cs") or ord(char) in TURNS
    return char.encode("unicode_escape").decode() if hidden and char not in kept else char


TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
