"""Files that hold many texts: JSON lines, JSON, CSV, TSV and Parquet. Each reader yields (name, text); None for a null.

A name is `FILE:LINE` or `FILE[ROW]`. Errors name it, and what was expected.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arch.errors import DataError, nearest
from experiments.data.plain_text import DECOMPRESS, read_bytes

Row = tuple[str, str | None]
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")


def json_lines(path: Path, text: str, field: str) -> Iterator[Row]:
    """One object per line; blank lines are none."""
    for name, row in json_objects(path, text):
        yield name, _of_object(name, row, field)


def json_objects(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yields (name, what the line holds) of every line that is not blank."""
    # Not splitlines(): JSON strings may contain U+2028 and similar characters, which do not end a line here.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: not JSON ({error}); expected one object per line") from None
        yield name, row


def json_file(path: Path, text: str, field: str) -> Iterator[Row]:
    """A list of objects, one object, or one object per line."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        yield from json_lines(path, text, field)
        return
    if isinstance(whole, list):
        for number, row in enumerate(whole):
            yield f"{path}[{number}]", _of_object(f"{path}[{number}]", row, field)
    else:
        yield str(path), _of_object(str(path), whole, field)


def _of_object(name, row, field):
    if row is None:
        return None
    if not isinstance(row, dict):
        raise DataError(f"{name}: expected an object with the key {field!r}")
    if field not in row:
        raise DataError(f"{name}: no key {field!r} (data.source.field){nearest(field, row)}")
    return _text(name, row[field], field)


def _text(name, value, field):
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name}: the value of {field!r} is not text")
    return value


def comma_separated(path: Path, text: str, field: str) -> Iterator[Row]:
    """A table with a header; cells are separated by commas, or by semicolons as some spreadsheets write them."""
    yield from _table(path, text, field, ",;")


def tab_separated(path: Path, text: str, field: str) -> Iterator[Row]:
    """A table with a header; cells are separated by tabs.

    Some programs quote cells, others write quotation marks as they stand. A file whose marks do not pair, cell by cell, is
    of the second kind.
    """
    try:
        rows = list(_table(path, text, field, "\t"))
    except DataError:
        rows = list(_table(path, text, field, "\t", csv.QUOTE_NONE))
    yield from rows


def _table(path, text, field, separators, quoting=csv.QUOTE_MINIMAL):
    """The rows of a table. The first of `separators` with which the header has the column `field` is the file's."""
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the library's 131,072 characters
    headers = []
    told = SEPARATOR_LINE.match(text)  # spreadsheets may name the separator in a line before the header
    for separator in told[1] if told else separators:
        lines = io.StringIO(text, newline="")
        lines.seek(told.end() if told else 0)
        reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
        except csv.Error:  # quotation marks that do not pair with this separator
            continue
        headers.append(names)
        if field in names:
            break
    else:
        known = max(headers, key=len, default=[])
        raise DataError(f"{path}:1: no column {field!r} (data.source.field){nearest(field, known)}")
    if names.count(field) > 1:
        raise DataError(f"{path}:1: {names.count(field)} columns are called {field!r}; expected one")
    first = 2 if told else 1
    column, line = names.index(field), reader.line_num + first
    while True:
        name = f"{path}:{line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}: not a row of a table ({error})") from None
        if cells is None:
            return
        if any(cells[len(names) :]):  # some programs end every row with a separator
            said = f"{len(cells)} cells, the header has {len(names)}"
            raise DataError(f"{name}: {said}; a text with a separator in it must be quoted")
        if cells:
            yield name, cells[column] if column < len(cells) else None
        line = reader.line_num + first


def parquet(path: Path, field: str) -> Iterator[Row]:
    """A row of a Parquet file per text; the file itself may be compressed too."""
    for name, row in parquet_rows(path, [field], [], "data.source.field"):
        yield name, _text(name, row[field], field)


def parquet_rows(path: Path, expected: list[str], optional: list[str], option: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name, {column: value}) of every row. expected: columns that must be there. option: what names them in a spec."""
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    opened: Any = io.BytesIO(read_bytes(path)) if path.suffix.lower() in DECOMPRESS else path
    try:
        with pyarrow.parquet.ParquetFile(opened) as file:
            columns = file.schema_arrow.names
            for each in expected:
                if each not in columns:
                    raise DataError(f"{path}: no column {each!r} ({option}){nearest(each, columns)}")
            number = 0
            for batch in file.iter_batches(columns=[*expected, *(each for each in optional if each in columns)]):
                for row in batch.to_pylist():
                    yield f"{path}[{number}]", row
                    number += 1
    except FileNotFoundError:
        raise DataError(f"{path}: vanished between listing and reading; expected a Parquet file") from None
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from None


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    kinds: dict[type, str] = {type(None): "null", bool: "a truth value", int: "a number", float: "a number"}
    kinds |= {list: "a list", dict: "an object", str: "text"}
    return kinds.get(type(value), type(value).__name__)
