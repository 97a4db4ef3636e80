"""JSON files of others, as nodes that know their lines."""

import json
from pathlib import Path

from arch import document
from arch.errors import DataError, SpecError


def read(path: Path) -> document.Node:
    """A JSON file that holds a mapping, as a Node. Raises DataError.

    Values are what JSON says. Lines come from reading the file as YAML too; where that fails (it has tabs, say) or reads
    something else (half of a surrogate pair), every value has line 1.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})", key=None) from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a mapping of keys", key=None)
    try:
        found = document.read(path)
    except SpecError:
        return document.node(data, str(path), 1)
    return found if found.plain() == data else document.node(data, str(path), 1)
