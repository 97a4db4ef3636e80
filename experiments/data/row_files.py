"""Files of rows with several keys, JSON lines or Parquet, for sources that read more than one text of a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arch.errors import DataError
from experiments.data import text_rows
from experiments.data.plain_text import BOM, read_text
from experiments.data.sources.text import PARQUET, Text, ending_of

LINES = (".jsonl", ".ndjson", ".jsonlines")
EXPECTED = ".jsonl, .ndjson or .parquet, also compressed"


def files(listed: Text) -> list[Path]:
    """Every file that a source of texts lists, each once. Raises DataError for one of another kind."""
    found: list[Path] = listed.files()
    for path in found:
        if ending_of(path) not in (*LINES, *PARQUET):
            raise DataError(f"{path}: a file of another kind; expected {EXPECTED}")
    return found


def rows(path: Path, expected: list[str], optional: list[str]) -> Iterator[tuple[str, Any]]:
    """(name, row) of a file's rows. expected: columns of Parquet that must be there; optional: those that are read too."""
    if ending_of(path) in PARQUET:
        yield from text_rows.parquet_rows(path, expected, optional, "data.source.columns")
    else:
        yield from text_rows.json_objects(path, read_text(path).removeprefix(BOM))
