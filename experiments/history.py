"""The training curves of a run: rows in memory, `history.parquet` for analysis, TensorBoard events for viewing."""

import math
from pathlib import Path

from experiments.record import HISTORY_COLUMNS, HISTORY_NAME, durably


class History:
    """One row per step. `select/*` are NaN at steps where the select split was not evaluated."""

    def __init__(self, rows=()):
        self.rows = list(rows)

    def add(self, **values):
        """Append a row; absent columns become NaN."""
        self.rows.append([float(values.get(name, math.nan)) for name in HISTORY_COLUMNS])

    @property
    def last(self):
        """{column: value} of the last row; empty before the first."""
        return dict(zip(HISTORY_COLUMNS, self.rows[-1], strict=True)) if self.rows else {}

    @property
    def seconds(self):
        """Training time in seconds up to the last row, including the time of earlier processes of the same run."""
        return self.last.get("seconds", 0.0)

    def write(self, folder):
        """Write `history.parquet` whole or not at all."""
        import pyarrow
        import pyarrow.parquet

        columns = list(zip(*self.rows, strict=True)) or [[] for _ in HISTORY_COLUMNS]
        table = pyarrow.table(
            {name: pyarrow.array(column, pyarrow.float64()) for name, column in zip(HISTORY_COLUMNS, columns, strict=True)}
        )
        for i, name in enumerate(HISTORY_COLUMNS[:2]):
            table = table.set_column(i, name, table.column(name).cast(pyarrow.int64()))
        durably(Path(folder) / HISTORY_NAME, lambda scratch: pyarrow.parquet.write_table(table, scratch))


class Events:
    """TensorBoard events of a run. Writes nothing if `folder` is None, as in all processes of a run but the first.

    step: the step at which this process starts. Events after it, from an interrupted process, are purged.
    """

    def __init__(self, folder, step):
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self.writer = folder and SummaryWriter(str(folder), purge_step=purge, flush_secs=20)

    def scalars(self, step, values):
        """Write named numbers at a step; NaNs are skipped."""
        for name, value in values.items():
            if self.writer and not math.isnan(value):
                self.writer.add_scalar(name, value, step)

    def text(self, step, name, text):
        """Write a text as a code block."""
        if self.writer:
            self.writer.add_text(name, "    " + text.replace("\n", "\n    "), step)

    def close(self):
        """Flush and close the event file."""
        if self.writer:
            self.writer.close()
