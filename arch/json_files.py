"""JSON files of others: as plain data, and as nodes that know their lines."""

import json
from pathlib import Path
from typing import Any

from arch import document
from arch.errors import DataError, SpecError


def loaded(path: Path) -> Any:
    """What a JSON file holds. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})", key=None) from None


def mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds, a mapping. Raises DataError."""
    data = loaded(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a mapping of keys", key=None)
    return data


def read(path: Path) -> document.Node:
    """A JSON file that holds a mapping, as a Node. Raises DataError.

    Values are what JSON says. Lines come from reading the file as YAML too; where that fails (it has tabs, say) or reads
    something else (half of a surrogate pair), every value has line 1.
    """
    data = mapping(path)
    try:
        found = document.read(path)
    except SpecError:
        return document.node(data, str(path), 1)
    return found if found.plain() == data else document.node(data, str(path), 1)
