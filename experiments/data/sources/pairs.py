"""Your own pairs of texts, from JSON lines or Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from arch.registry import source
from arch.spec import List
from experiments.data import pair_rows, row_files
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, bare
from experiments.data.pair_rows import Columns
from experiments.data.sources.text import Text


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
        columns = self.config.columns
        keys = columns.expected(), columns.optional()
        yield from pair_rows.pairs((row for path in self.files() for row in row_files.rows(path, *keys)), columns)

    def files(self) -> list[Path]:
        """Every file that `pairs` reads, each once. Raises DataError."""
        return row_files.files(self.listed)
