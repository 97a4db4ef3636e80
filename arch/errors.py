"""Errors that the user can correct: shown as one message, never as a traceback."""

import difflib


class SpecError(ValueError):
    """An invalid spec, shown as `FILE:LINE: path.to.key: what is wrong and what was expected`.

    path: the key's path in the spec. line: None where the value comes from the command line. reason: the text.
    others: further errors, shown one per line.
    """

    def __init__(self, reason, path=(), file=None, line=None, others=()):
        super().__init__(reason)
        self.reason, self.path, self.file, self.line, self.others = reason, tuple(path), file, line, list(others)

    def __str__(self):
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        dotted = ".".join(str(part) for part in self.path)
        return "\n".join([": ".join(filter(None, (self.file and where, dotted, self.reason))), *map(str, self.others)])

    def below(self, path):
        """The same error with `path` in front of every key, for a document that contains this one."""
        others = [other.below(path) for other in self.others]
        return SpecError(self.reason, (*path, *self.path), self.file, self.line, others)


class DataError(ValueError):
    """The data that a spec names cannot be used (missing, empty, binary, too short).

    key: the path of the spec's key at fault, from which a caller with the document finds file and line; None if there
    is none.
    """

    def __init__(self, reason, key=("data", "source")):
        super().__init__(reason)
        self.key = key


def reason_of(error, file):
    """Why a file cannot be read: the first line of an error about it, without the file's name in front."""
    return str(error).splitlines()[0].removeprefix(f"{file}: ")


def install(extra):
    """The command that installs an extra: from the checkout, since the package is on no index."""
    return f"pip install -e '.[{extra}]'"


MOST_NAMES = 60  # beyond, a list of all hides the name that is meant


def unknown_key(key, known):
    """What is wrong with a key that is none of the known ones: dots are read in overrides, and nowhere else."""
    first, *further = str(key).split(".")
    if further and all(further) and first in known:
        nested = f"{': {'.join([first, *further])}: ...{'}' * len(further)}"
        return f"unknown key; write `{nested}`: dots are for overrides (arms, grid, scales, --set)"
    return f"unknown key{nearest(key, known)}"


def nearest(name, known):
    """The end of an error about an unknown name: the nearest known names, then all of them unless they are very many."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
    if close and len(known) > MOST_NAMES:
        return hint
    return f"{hint} known: {', '.join(known) if known else '(none)'}"
