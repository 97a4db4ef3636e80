"""Pairs of texts from a data set of the Hugging Face hub or a local folder, read by the package `datasets`."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from arch.registry import source
from arch.spec import Count, List
from experiments.data import pair_rows
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, bare
from experiments.data.pair_rows import Columns
from experiments.data.sources.hub import Hub


@source
class HubPairs:
    """A pair per row, in the data set's order: a query, its positive and maybe hard negatives."""

    class Config(PairOptions):
        """path: a name on the hub, a folder of data files, or a folder that `save_to_disk` wrote.

        name: the data set's configuration. split: the split to read; Archbench makes its own three splits from it.
        columns: which column holds what. data_files: files or globs within the data set. limit: read only this many rows, from
        the first.
        """

        path: str
        name: str | None = None
        split: str = "train"
        columns: Columns = Columns()
        data_files: List[str] | None = None
        limit: Count | None = None

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        options = {key: getattr(config, key) for key in ("path", "name", "split", "data_files", "limit")}
        self.hub = Hub(Hub.Config(**options))

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        return bare("hub_pairs", self.config)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs. Raises DataError that names the row (`PATH[ROW]`) and what was expected."""
        self.left_out = LeftOut()
        rows = enumerate(islice(self.hub.rows(), self.config.limit))
        yield from pair_rows.pairs(((f"{self.config.path}[{number}]", row) for number, row in rows), self.config.columns)

    def files(self) -> list[Path] | None:
        """As of the source `hub`."""
        found: list[Path] | None = self.hub.files()
        return found
