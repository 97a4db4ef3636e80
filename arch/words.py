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


def visible(text: str) -> str:
    """A text with its control characters shown, not written: ESC as `␛`, others as `<U+202E>`; line breaks and tabs stay.

    Also marks that turn the direction of what follows, and halves of surrogate pairs, which no file can hold.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    code, kind = ord(char), unicodedata.category(char)
    if char in "\n\t" or (kind not in ("Cc", "Cs") and code not in TURNS):
        return char
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"<U+{code:04X}>"


TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
