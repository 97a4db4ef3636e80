"""Your own pairs of texts, from JSON lines or Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import List
from experiments.data import pair_rows, text_rows
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, bare
from experiments.data.pair_rows import Columns
from experiments.data.plain_text import BOM, read_text
from experiments.data.sources.text import PARQUET, Text, ending_of

LINES = (".jsonl", ".ndjson", ".jsonlines")
EXPECTED = ".jsonl, .ndjson or .parquet, also compressed"


@source
class FilesOfPairs:
    """A pair per line of a `.jsonl` file or per row of a `.parquet` file: a query, its positive and maybe hard negatives.

    `{"query": ..., "positive": ..., "negatives": [...], "group": ..., "label": ...}`, the last three where there are some.
    Pairs of a group are in the same split; without a group, pairs with the same positive are.
    """

    class Config(PairOptions):
        """files: paths, folders and globs (`**` matches subfolders), relative to the working folder.

        columns: which key holds what.
        """

        files: Annotated[List[str], Field(min_length=1)]
        columns: Columns = Columns()

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        self.listed = Text(Text.Config(files=config.files))

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        return bare("pairs", self.config)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs, file after file. Raises DataError that names the file, the line and what was expected."""
        self.left_out = LeftOut()
        yield from pair_rows.pairs((row for path in self.files() for row in self._rows(path)), self.config.columns)

    def files(self) -> list[Path]:
        """Every file that `pairs` reads, each once. Raises DataError."""
        found: list[Path] = self.listed.files()
        for path in found:
            if ending_of(path) not in (*LINES, *PARQUET):
                raise DataError(f"{path}: a file of another kind; expected {EXPECTED}")
        return found

    def _rows(self, path):
        """(name, row) of a file's rows."""
        if ending_of(path) in PARQUET:
            columns = self.config.columns
            yield from text_rows.parquet_rows(path, columns.expected(), columns.optional(), "data.source.columns")
        else:
            yield from text_rows.json_objects(path, read_text(path).removeprefix(BOM))
