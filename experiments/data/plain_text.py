"""Read one file as UTF-8 text, decompressed by its ending; errors name the file, what it is and the byte offset."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from pathlib import Path

from arch.errors import DataError

BOM = "\ufeff"
# What files begin with that are no text, as a person would name it.
BEGINNINGS = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh9": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"PK\x03\x04": "a zip archive, or a document of Office",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"%PDF": "PDF",
    b"SQLite format 3\0": "an SQLite database",
}
UTF32 = ((codecs.BOM_UTF32_LE, "UTF-32LE"), (codecs.BOM_UTF32_BE, "UTF-32BE"))
UTF16 = ((codecs.BOM_UTF16_LE, "UTF-16LE"), (codecs.BOM_UTF16_BE, "UTF-16BE"))
# How much of a file says which encoding it has.
HEAD = 4096


def read_text(path: Path) -> str:
    """The text of a file, decompressed if its name ends so (`DECOMPRESS`). Line ends are kept, and a byte order mark.

    Raises DataError if the file does not exist, cannot be read, is not UTF-8 or contains a NUL byte.
    """
    content = read_bytes(path)
    encoding = other_encoding(content)
    if encoding:
        raise DataError(f"{path}: {encoding} text; expected UTF-8 (iconv -f {encoding} -t UTF-8 converts it)")
    nul = content.find(0)
    if nul >= 0:
        what = known_binary(content) or f"a NUL byte at byte offset {nul:,}"
        raise DataError(f"{path}: binary, expected UTF-8 text: {what}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = known_binary(content) or f"byte 0x{content[error.start]:02x} at byte offset {error.start:,}, line {line:,}"
        raise DataError(f"{path}: not UTF-8 text: {what}") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends so. Raises DataError."""
    name, decompress = DECOMPRESS.get(path.suffix.lower(), ("", None))
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: vanished between listing and reading; expected a text file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if decompress is None or not content:
        return content
    try:
        return decompress(content)
    except (OSError, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a whole {name} file ({error})") from None


def reads_as_text(head: bytes) -> bool:
    """Whether a file that begins so may be text: also in another encoding, which reading it then names."""
    return bool(other_encoding(head)) or not (0 in head or known_binary(head))


def known_binary(content: bytes) -> str:
    """What a file is that is no text, by how it begins; empty where nothing says so."""
    what = next((what for beginning, what in BEGINNINGS.items() if content.startswith(beginning)), None)
    return f"it is {what}, and its name does not end so" if what else ""


def other_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the NUL bytes of Latin letters; None for any other encoding."""
    marked = next((name for mark, name in (*UTF32, *UTF16) if content.startswith(mark)), None)
    return marked or _without_mark(content[:HEAD])


def _without_mark(head):
    """UTF-16 without a byte order mark: nearly every other byte is NUL, and no other one."""
    even, odd = head[::2], head[1::2]
    for name, letters, zeros in (("UTF-16LE", even, odd), ("UTF-16BE", odd, even)):
        if len(zeros) > 1 and zeros.count(0) > 0.7 * len(zeros) and letters.count(0) == 0:
            return name
    return None


def _by_pyarrow(codec):
    def decompress(content):
        import pyarrow

        return pyarrow.CompressedInputStream(io.BytesIO(content), codec).read()

    return decompress


# {ending: (its name, bytes to bytes)}. All of them read several compressed parts one after the other.
DECOMPRESS = {
    ".gz": ("gzip", gzip.decompress),
    ".bz2": ("bzip2", bz2.decompress),
    ".xz": ("xz", lzma.decompress),
    ".zst": ("zstd", _by_pyarrow("zstd")),
    ".lz4": ("lz4", _by_pyarrow("lz4")),
}
