"""A data set from the Hugging Face hub or a local folder, read by the package `datasets`."""

from itertools import islice
from pathlib import Path

from arch.errors import DataError, install, nearest
from arch.registry import source
from arch.spec import Count, List, Spec
from experiments.data.left_out import LeftOut

# Files that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write into a folder.
SAVED = ("state.json", "dataset_dict.json")


@source
class Hub:
    """One document per row, in the data set's order."""

    class Config(Spec):
        """`path`: a name on the hub, a folder of data files, or a folder that `save_to_disk` wrote.

        `name`: the data set's configuration. `split`: the split to read; Archbench makes its own three splits from it.
        `field`: the column that holds the text. `data_files`: files or globs within the data set. `limit`: read only
        this many rows, from the first; with a limit, the hub's rows are streamed, not downloaded as a whole.
        """

        path: str
        name: str | None = None
        split: str = "train"
        field: str = "text"
        data_files: List[str] | None = None
        limit: Count | None = None

    def __init__(self, config):
        self.config = config
        self.left_out = LeftOut()

    def documents(self):
        """Yields (`PATH[ROW]`, text) and leaves out rows that are blank or null. Raises DataError."""
        self.left_out = LeftOut()
        rows = self.rows()
        columns = rows.column_names
        if columns is not None and self.config.field not in columns:
            raise DataError(
                f"{self.config.path}: no column {self.config.field!r} (data.source.field){nearest(self.config.field, columns)}"
            )
        for number, row in enumerate(islice(rows, self.config.limit)):
            name, text = f"{self.config.path}[{number}]", row.get(self.config.field)
            if text is not None and not isinstance(text, str):
                raise DataError(f"{name}: no text in the column {self.config.field!r}")
            if text is not None and text.strip():
                yield name, text
            else:
                self.left_out.add("null rows" if text is None else "rows without text", name)

    def files(self):
        """Every file of a local folder; empty for a name on the hub, which is read once per process.

        None with `data_files`: they may lie anywhere.
        """
        folder = Path(self.config.path).expanduser()
        if self.config.data_files:
            return None
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []

    def rows(self):
        try:
            import datasets
        except ImportError:
            raise DataError(f"the source `hub` needs the package datasets: {install('hub')}") from None
        config = self.config
        folder = Path(config.path).expanduser()
        try:
            if any((folder / name).is_file() for name in SAVED):
                saved = datasets.load_from_disk(str(folder))
                return saved if isinstance(saved, datasets.Dataset) else self._split_of(saved)
            return datasets.load_dataset(
                str(folder) if folder.is_dir() else config.path,
                config.name,
                data_files=list(config.data_files) if config.data_files else None,
                split=config.split,
                streaming=config.limit is not None,
            )
        except (OSError, ValueError) as error:
            raise DataError(f"{config.path}: datasets cannot load it: {error}") from None

    def _split_of(self, saved):
        if self.config.split not in saved:
            raise DataError(f"{self.config.path}: no split {self.config.split!r}{nearest(self.config.split, saved)}")
        return saved[self.config.split]
