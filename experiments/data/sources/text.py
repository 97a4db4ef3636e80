"""Your own text files: plain text, JSON lines or Parquet."""

import glob
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from arch.errors import DataError, nearest
from arch.registry import source
from arch.spec import List, Spec
from experiments.data.plain_text import read_text


@source
class Text:
    """One document per file, per line of a `.jsonl` file, or per row of a `.parquet` file.

    Files other than Parquet may be compressed (`.gz`). A corpus is split by document, so one big text file needs a
    `separator`.
    """

    class Config(Spec):
        """`files`: paths and globs (`**` matches subfolders), relative to the working folder.

        Files are read in this order, those of a glob sorted. `field`: the key or column that holds the text.
        `separator`: splits every text into documents and is removed; "\\n\\n" splits at blank lines.
        """

        files: Annotated[List[str], Field(min_length=1)]
        field: str = "text"
        separator: Annotated[str, Field(min_length=1)] | None = None

    def __init__(self, config):
        self.config = config

    def documents(self):
        """Yields (name, text). A name is `FILE`, `FILE:LINE` or `FILE[ROW]`, with `#PIECE` if a text was split.

        Blank documents are skipped. Raises DataError that names the file and what was expected.
        """
        for path in self.files():
            for name, text in self._texts(path):
                pieces = [text] if self.config.separator is None else text.split(self.config.separator)
                for number, piece in enumerate(pieces):
                    if piece.strip():
                        yield (name if len(pieces) == 1 else f"{name}#{number}"), piece

    def files(self):
        """Every file that `documents` reads, each once. Raises DataError."""
        found = {}
        for pattern in self.config.files:
            path = Path(pattern).expanduser()
            if path.is_dir():
                raise DataError(f"{pattern}: a folder; expected files, e.g. {pattern.rstrip('/')}/**/*.txt")
            # A path that exists is taken literally, even if it contains brackets.
            matches = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))
            files = [match for match in matches if match.is_file()]
            if not files:
                raise DataError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
            found |= dict.fromkeys(files)
        return list(found)

    def _texts(self, path):
        kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if kind == ".parquet":
            return _parquet(path, self.config.field)
        text = read_text(path)
        if not text.strip():
            raise DataError(f"{path}: empty; expected text")
        return _json_lines(path, text, self.config.field) if kind == ".jsonl" else [(str(path), text)]


def _json_lines(path, text, field):
    # Not splitlines(): JSON strings may contain U+2028 and similar characters, which do not end a line here.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}: not JSON ({error}); expected one object per line") from None
        if not isinstance(row, dict):
            raise DataError(f"{name}: expected an object with the key {field!r}")
        if field not in row:
            raise DataError(f"{name}: no key {field!r} (data.source.field){nearest(field, row)}")
        if not isinstance(row[field], str):
            raise DataError(f"{name}: the value of {field!r} is not text")
        yield name, row[field]


def _parquet(path, field):
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise DataError(f"{path}: no column {field!r} (data.source.field){nearest(field, columns)}")
            number = 0
            for batch in file.iter_batches(columns=[field]):
                for value in batch.column(0).to_pylist():
                    if not isinstance(value, str):
                        raise DataError(f"{path}[{number}]: the value of {field!r} is not text")
                    yield f"{path}[{number}]", value
                    number += 1
    except FileNotFoundError:
        raise DataError(f"{path}: vanished between listing and reading; expected a Parquet file") from None
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from None
