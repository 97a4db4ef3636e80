"""Lists and plurals in sentences; texts of others made safe to print."""

import re
from collections.abc import Iterable

MOST = 12


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`; of more than MOST, the first ones and how many more there are."""
    words = list(words)
    if len(words) > MOST + 1:
        words = [*words[:MOST], f"{len(words) - MOST} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def listed_names(names: Iterable[str], last: str = "and") -> str:
    """`listed`, where a name that has a comma in it stands in quotation marks."""
    return listed([f"“{name}”" if "," in name else name for name in names], last)


def together(sentences: Iterable[str]) -> list[str]:
    """Sentences `arm 'A': SAID`, those that say the same as one, `arms 'A' and 'B': SAID`; other sentences as they are."""
    arms: dict[str, list[str]] = {}
    for sentence in sentences:
        found = re.fullmatch(r"arm ('.*?'|\".*?\"): (.*)", sentence, re.DOTALL)
        arms.setdefault(found[2] if found else sentence, []).extend([found[1]] if found else [])
    return [f"arm{'s' * (len(names) > 1)} {listed(names)}: {said}" if names else said for said, names in arms.items()]


def times(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair, which JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible(text: str, one_line: bool = False) -> str:
    """A text with its control characters shown, not written: ESC as `\\x1b`; line breaks and tabs stay, unless it is for one line.

    Also marks that turn the direction of what follows, and halves of surrogate pairs, which no file can hold.
    """
    if text.isprintable():
        return text
    hidden = HIDDEN_IN_LINES if one_line else HIDDEN
    return hidden.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# Control characters but line breaks and tabs; marks of direction; halves of surrogate pairs.
_REST = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
HIDDEN, HIDDEN_IN_LINES = re.compile(f"[{_REST}]"), re.compile(f"[{_REST}\\n\\t]")
