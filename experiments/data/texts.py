"""What the texts of a source were when they were last read, so that they are read and hashed once.

A source that lists its files (`files()`; the method is optional, and it may return None) has a stamp: a digest of its
options and of each file's path, size and time of change. The memo maps stamps to digests of texts. While a stamp stays
the same, so do the texts, and nobody needs to read them: not the next arm or trial, and not a worker, to which a study
hands what it remembers.
"""

from pathlib import Path
from typing import Any

from arch import registry
from arch.document import node
from arch.errors import DataError
from arch.plugins import plugin_sources
from arch.spec import digest

Known = dict[str, Any]
_KNOWN: dict[str, Known] = {}
_PLANTED: dict[str, dict[int, list[str]]] = {}


def resolved(source: dict[str, Any]) -> dict[str, Any]:
    """A source of texts inside of another, with every option. Raises SpecError, which names the option; ValueError for others."""
    kind = registry.component("source", source["type"])
    if hasattr(kind, "dataset") or hasattr(kind, "pairs"):
        has = "rows of its own" if hasattr(kind, "dataset") else "pairs of texts"
        raise ValueError(f"{source['type']} has {has}; expected a source of texts, such as python_stdlib")
    complete: dict[str, Any] = registry.resolve_component("source", node(source), ())
    return complete


def resolved_pairs(source: dict[str, Any]) -> dict[str, Any]:
    """A source of pairs inside of another, with every option. Raises SpecError, which names the option; ValueError for others."""
    if not hasattr(registry.component("source", source["type"]), "pairs"):
        raise ValueError(f"{source['type']} has no pairs of texts; expected a source of pairs, such as docstrings")
    complete: dict[str, Any] = registry.resolve_component("source", node(source), ())
    return complete


def stamp(source):
    """The stamp (hex) of a resolved source; None if it does not say which files it reads. Raises DataError."""
    component = registry.build("source", source)
    files = component.files() if hasattr(component, "files") else None
    if files is None:
        return None
    return digest({"source": source, "plugins": plugin_sources(source), "files": stamps(files)})


def planted(source: dict[str, Any]) -> dict[int, list[str]]:
    """{repetitions: documents} that a resolved source plants; {} for one that plants none. Read once while its stamp stays."""
    if not source or not hasattr(registry.component("source", source["type"]), "planted"):
        return {}
    mark = stamp(source)
    if mark is None or mark not in _PLANTED:
        found: dict[int, list[str]] = registry.build("source", source).planted()
        if mark is None:
            return found
        _PLANTED[mark] = found
    return _PLANTED[mark]


def stamps(files):
    """[[path, bytes, nanoseconds at the last change]] of files. Raises DataError for a file that is not there."""
    listed = []
    for path in map(Path, files):
        try:
            about = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file") from None
        listed.append([str(path.absolute()), about.st_size, about.st_mtime_ns])
    return listed


def remembered(source) -> dict[str, Known]:
    """{stamp: what is known of the texts} of a source: plain data for another process. Empty if its texts are not known.

    Of a source of rows that are made of texts: of those texts. Of a source of pairs: of the pairs, without their prompts.
    """
    mark = stamp(getattr(registry.build("source", source), "texts", source))
    return {mark: _KNOWN[mark]} if mark in _KNOWN else {}


def remember(known: dict[str, Known]) -> None:
    """Add {stamp: what is known of the texts} to what this process knows."""
    _KNOWN.update(known)


def known(mark: str | None) -> Known | None:
    """What is known of the texts with this stamp (None: a source without a stamp), or None."""
    return None if mark is None else _KNOWN.get(mark)
