"""Read one file as UTF-8 text; errors name the file and the byte offset."""

import gzip
import zlib

from arch.errors import DataError


def read_text(path):
    """The text of a file, decompressed if its name ends in `.gz`. Line ends are kept.

    Raises DataError if the file does not exist, cannot be read, is not UTF-8 or contains a NUL byte.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: vanished between listing and reading; expected a text file") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    nul = content.find(0)
    if nul >= 0:
        raise DataError(f"{path}: binary, expected UTF-8 text: a NUL byte at byte offset {nul:,}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: byte 0x{content[error.start]:02x} at byte offset {error.start:,}") from None
