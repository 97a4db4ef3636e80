"""Copies of what a study's verdicts and reports rest on: records, evaluations and thinner curves, without weights.

They have the layout of a folder of runs, so that every command that reads studies reads them. They are small enough for a
repository.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch.errors import DataError
from experiments.files import durably, write_atomically
from experiments.record import DOCUMENTS, HISTORY_NAME, PACKED, content_of, evaluation_files, packed_file, record_file
from sweeps import marks
from sweeps.record import NAME, StudyRecord

if TYPE_CHECKING:
    import pyarrow

DIGITS = 8


def keep(folder: Path, into: Path, every: int = 10) -> Path:
    """Copy a study's folder RUNS/STUDY/SCALE to INTO/STUDY/SCALE, with the runs of other studies that it uses; returns the copy.

    every: of a curve, every so many steps are kept, the last, and those at which the select split was evaluated. Files that are
    there are replaced one by one, each whole or not at all. Raises DataError, before anything is written, for a folder without a
    record, a run that lies outside of RUNS and a file that is not whole; OSError.
    """
    folder, runs = folder.resolve(), folder.resolve().parent.parent
    record = StudyRecord.read(folder)
    if record is None:
        raise DataError(f"{folder}: no {NAME} in it", key=None)
    if into.resolve() == runs:
        raise DataError(f"{into}: is where the study is already; expected another folder", key=None)
    files = [folder / marks.NAME] if (folder / marks.NAME).is_file() else []
    for run in _runs(record, folder):
        if not run.is_relative_to(runs):
            raise DataError(f"{run}: this run lies outside of {runs}, so a copy of the study would not find it", key=None)
        files += _files(run)
    bare = {file: _bare(file) for file in files if file.name != HISTORY_NAME}
    for file in files:
        to = into / file.relative_to(runs)
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.name == HISTORY_NAME:
            _thin(file, to, every)
        elif file.name == marks.NAME:
            write_atomically(to, bare[file])
        else:  # most of all bytes, and the same words again and again
            plain = to.with_name(to.name.removesuffix(PACKED))
            write_atomically(packed_file(plain), gzip.compress(bare[file], mtime=0))
            plain.unlink(missing_ok=True)  # of a copy that an older release made
    copy = into / folder.relative_to(runs)
    record.model_copy(update={"command": record.bare_command}).write(copy)  # the copy lies elsewhere
    return copy


def _runs(record: StudyRecord, folder: Path) -> list[Path]:
    """The folders of reported runs, helper runs and trials that have a record."""
    places = [path for arm in record.arms.values() for path in arm.runs.values()]
    places += [path for each in record.helpers.values() for path in each.values()]
    places += [trial.run for trial in record.trials if trial.run]
    every = dict.fromkeys((folder / place).resolve() for place in places)
    return [run for run in every if record_file(run).is_file()]


def _files(run: Path) -> Iterator[Path]:
    yield record_file(run)
    if (run / HISTORY_NAME).is_file():
        yield run / HISTORY_NAME
    yield from evaluation_files(run).values()


def _thin(file: Path, to: Path, every: int) -> None:
    """Copy a curve with fewer steps."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    rows = range(table.num_rows)
    evaluated = [name for name in table.column_names if name.startswith("select/")]
    # By the number of the step, so that a copy of a copy is the same: who goes on from kept records keeps them again.
    kept = {row for row, step in enumerate(table.column("step").to_pylist()) if step % every == 0 or row == table.num_rows - 1}
    for name in evaluated:
        valid = pyarrow.compute.is_finite(table.column(name)).fill_null(False).to_pylist()
        kept |= {row for row in rows if valid[row]}
    thin = table.take(pyarrow.array(sorted(kept), pyarrow.int64()))  # a run of no steps has no rows
    durably(to, lambda scratch: _write_small(thin, scratch))


def _bare(file: Path) -> bytes:
    """The text of a JSON file without blanks, which are a quarter of a record. Raises DataError.

    What was measured of documents is most of all bytes, and an interval over texts needs no more than DIGITS of a number. Their
    weights stay as they are: equal weights say that two runs were measured on the same rows.
    """
    data = content_of(file)
    if file.name.removesuffix(PACKED).endswith(DOCUMENTS):
        data |= {key: _rounded(data[key]) for key in data if key != "weights"}
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _rounded(data: Any) -> Any:
    """Plain data whose floats have DIGITS digits."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_rounded(each) for each in data]
    return float(f"{data:.{DIGITS}g}") if isinstance(data, float) else data


def _write_small(table: "pyarrow.Table", to: Path) -> None:
    """A third of what pyarrow writes by default: a curve is drawn, and needs no more than seven digits."""
    import pyarrow
    import pyarrow.parquet

    small = {name: table[name] for name in table.column_names}
    for name in table.column_names:
        if pyarrow.types.is_floating(table[name].type) and _fits(table[name]):
            small[name] = table[name].cast(pyarrow.float32())
    curves = [name for name, column in small.items() if pyarrow.types.is_floating(column.type)]
    options = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "store_schema": False}
    pyarrow.parquet.write_table(pyarrow.table(small), to, use_dictionary=False, use_byte_stream_split=curves, **options)


def _fits(column: "pyarrow.ChunkedArray") -> bool:
    """Whether no value of a column is too large or too small for float32."""
    import numpy as np

    values = np.abs(column.to_numpy())
    values = values[np.isfinite(values) & (values > 0)]
    return not len(values) or bool(values.max() < np.finfo(np.float32).max and values.min() > np.finfo(np.float32).tiny)
