"""Errors that are the user's to mend: shown as one message, never as a traceback."""

import difflib


class SpecError(ValueError):
    """A spec says something that cannot be: `FILE:LINE: path.to.key: what is wrong and what was expected`.

    `path` is the key's path in the spec, `reason` the text; `others` are further errors, shown a line each.
    """

    def __init__(self, reason, path=(), file=None, line=None, others=()):
        super().__init__(reason)
        self.reason, self.path, self.file, self.line, self.others = reason, tuple(path), file, line, list(others)

    def __str__(self):
        where = "" if self.file is None else f"{self.file}:{self.line}: "
        dotted = ".".join(str(part) for part in self.path)
        return "\n".join([where + (f"{dotted}: " if dotted else "") + self.reason, *map(str, self.others)])

    def below(self, path):
        """The same error seen from further up: `path` goes in front of every key."""
        others = [other.below(path) for other in self.others]
        return SpecError(self.reason, (*path, *self.path), self.file, self.line, others)


class DataError(ValueError):
    """The data that a spec names cannot be used (missing, empty, binary, too short).

    `key` is the path of the spec's key at fault, so that whoever has the document can add file and line; None where no key is.
    """

    def __init__(self, reason, key=("data", "source")):
        super().__init__(reason)
        self.key = key


def nearest(name, known):
    """A half-sentence for an unknown name: the nearest known ones, then all of them."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
    return f"{hint} known: {', '.join(known) if known else '(none)'}"
