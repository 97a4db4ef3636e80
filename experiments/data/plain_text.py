"""Reading one file as UTF-8 text, with errors that say which file and which byte."""

import gzip
import zlib

from arch.errors import DataError


def read_text(path):
    """The whole text of a file, unpacked if it ends in `.gz`; line ends stay as they are.

    Raises DataError if it is gone, cannot be read, is not UTF-8 or has a NUL byte.
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
