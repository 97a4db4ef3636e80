"""The training curves of a run: rows in memory, `history.parquet` for analysis, TensorBoard events for viewing."""

import math
from pathlib import Path

from experiments.files import durably
from experiments.record import HISTORY_NAME


class History:
    """One row per step: {column: number}. A column that a step has no value of (`select/*` between evaluations) is absent."""

    def __init__(self, rows=()):
        self.rows = list(rows)

    def add(self, **values):
        """Append a row. Every row has `step` and `tokens`."""
        self.rows.append({name: float(value) for name, value in values.items()})

    @property
    def last(self):
        """The last row; empty before the first."""
        return self.rows[-1] if self.rows else {}

    @property
    def columns(self):
        """Every column that some row has, in the order in which they came up; `step` and `tokens` always."""
        return list(dict.fromkeys(("step", "tokens", *(name for row in self.rows for name in row))))

    @property
    def seconds(self):
        """Training time in seconds up to the last row, including the time of earlier processes of the same run."""
        return self.last.get("seconds", 0.0)

    def write(self, folder):
        """Write `history.parquet` whole or not at all: whole numbers for steps and tokens, NaN where a row has no value."""
        import pyarrow
        import pyarrow.parquet

        table = {name: pyarrow.array([row.get(name, math.nan) for row in self.rows], pyarrow.float64()) for name in self.columns}
        table |= {name: table[name].cast(pyarrow.int64()) for name in ("step", "tokens")}
        durably(Path(folder) / HISTORY_NAME, lambda scratch: pyarrow.parquet.write_table(pyarrow.table(table), scratch))


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
