"""The file format GGUF, version 3 (`docs/gguf.md` of ggml): header, keys with values, what tensors there are, their bytes.

Everything is little-endian. A tensor's sizes stand in reverse order, the width of a row first. The bytes of the tensors begin at a
multiple of ALIGNMENT, and so does each of them.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
# Codes of the types of values.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True)
class Kind:
    """How a tensor is stored. code: in the file. block: values that are stored together, in `size` bytes."""

    code: int
    block: int
    size: int


KINDS = {
    "float32": Kind(0, 1, 4),
    "float16": Kind(1, 1, 2),
    "q4_0": Kind(2, 32, 18),
    "q8_0": Kind(8, 32, 34),
    "bfloat16": Kind(30, 1, 2),
}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file. shape: of its values. kind: one of KINDS; its block divides the width of a row."""

    shape: tuple[int, ...]
    kind: str

    @property
    def bytes(self) -> int:
        kind = KINDS[self.kind]
        return prod(self.shape) // kind.block * kind.size


def write(
    path: Path,
    about: Mapping[str, Any],
    entries: Mapping[str, Stored],
    tensors: Iterable[tuple[str, np.ndarray]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a file; one tensor at a time is in memory.

    about: {key: value}; a bool, an int (uint32), a float (float32), a text, or a list of one of these, whose ints are int32; an
    empty list is one of texts. tensors: (name, its bytes) of every entry, in any order. progress: called after each with (its
    bytes, all bytes).
    """
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(entries), len(about))]
    header += [_text(key) + _typed(value) for key, value in about.items()]
    offsets, end = {}, 0
    for name, stored in entries.items():
        sizes = struct.pack(f"<I{len(stored.shape)}Q", len(stored.shape), *reversed(stored.shape))
        header.append(_text(name) + sizes + struct.pack("<IQ", KINDS[stored.kind].code, end))
        offsets[name], end = end, end + stored.bytes + -stored.bytes % ALIGNMENT
    start = b"".join(header)
    start += b"\0" * (-len(start) % ALIGNMENT)
    total = sum(stored.bytes for stored in entries.values())
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(len(start) + end)
        for name, content in tensors:
            file.seek(len(start) + offsets[name])
            size = file.write(memoryview(np.ascontiguousarray(content)).cast("B"))
            if size != entries[name].bytes:
                raise ValueError(f"{name}: {size} bytes, expected {entries[name].bytes}")
            if progress:
                progress(size, total)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: Any) -> bytes:
    """A value with its type in front."""
    if isinstance(value, list):
        kind = STRING if not value else INT32 if type(value[0]) is int else _kind(value[0])
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_bare(each, kind) for each in value)
    return struct.pack("<I", _kind(value)) + _bare(value, _kind(value))


def _kind(value: Any) -> int:
    return {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING}[type(value)]


def _bare(value: Any, kind: int) -> bytes:
    return _text(value) if kind == STRING else struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)
