"""Vectors of texts as files: JSON lines, `.npy`, parquet. They are written part by part, and appear whole or not at all.

Shapes: N texts, E numbers of a vector.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from arch import whole_file
from arch.errors import DataError, nearest

Write = Callable[[Sequence[str], np.ndarray], None]  # some texts with their vectors (N, E) float32, in order


def format_of(written: str | None, out: Path | None) -> str:
    """The format that is meant: as written, else by the file's name, else `jsonl`. Raises DataError.

    Only JSON lines can be written to standard output (out: None).
    """
    name = written or (out.suffix.removeprefix(".") if out is not None and out.suffix else "jsonl")
    if name not in FORMATS:
        where = "" if written else f"{out}: "
        raise DataError(f"{where}no format {name!r}{nearest(name, FORMATS)}", key=None)
    if out is None and name != "jsonl":
        raise DataError(f"the format {name} needs a file: --out FILE", key=None)
    return name


@contextmanager
def writing(name: str, out: Path | None, width: int) -> Iterator[Write]:
    """Yields a function that writes texts and their vectors of `width` numbers, in a format; to standard output without `out`.

    A file gets its name when the block ends without an error; what was there is replaced then. Raises DataError where it cannot
    be written.
    """
    if out is None:
        with _jsonl(sys.stdout.buffer, width) as write:
            yield write
        return
    with (
        whole_file.writing(out),
        whole_file.appearing(out) as scratch,
        open(scratch, "wb") as file,
        FORMATS[name](file, width) as write,
    ):
        yield write


@contextmanager
def _jsonl(file: BinaryIO, width: int) -> Iterator[Write]:
    """{"text": ..., "vector": [...]} a line. A float32 is written with the digits that give it back."""

    def write(texts, vector_NE):
        for text, vector_E in zip(texts, vector_NE, strict=True):
            numbers = ", ".join(vector_E.astype(str))
            file.write(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "vector": [{numbers}]}}\n'.encode())
        file.flush()  # whoever reads a pipe gets each part when it is there

    yield write


@contextmanager
def _npy(file: BinaryIO, width: int) -> Iterator[Write]:
    """One array (N, E) float32. Its header leaves room for the number of texts, which is known at the end."""
    written = 0

    def header():
        file.seek(0)
        about = {"descr": "<f4", "fortran_order": False, "shape": (written, width)}
        np.lib.format.write_array_header_1_0(file, about)
        return file.tell()

    def write(texts, vector_NE):
        nonlocal written
        file.write(np.ascontiguousarray(vector_NE, dtype="<f4").tobytes())
        written += len(vector_NE)

    size = header()
    yield write
    if header() != size:
        raise DataError(f"{written:,} texts are more than the header of a .npy file has room for", key=None)


@contextmanager
def _parquet(file: BinaryIO, width: int) -> Iterator[Write]:
    """Columns `text` and `vector`, a list of `width` float32; a row group a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), width))])
    with pq.ParquetWriter(file, schema) as table:

        def write(texts, vector_NE):
            flat = pa.array(np.ascontiguousarray(vector_NE, dtype=np.float32).ravel())
            vectors = pa.FixedSizeListArray.from_arrays(flat, width)
            table.write_table(pa.table([pa.array(list(texts), pa.string()), vectors], schema=schema))

        yield write


FORMATS = {"jsonl": _jsonl, "npy": _npy, "parquet": _parquet}
