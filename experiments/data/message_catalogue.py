"""Read a compiled catalogue of translations, a `.mo` file (GNU gettext manual, "The Format of GNU MO Files")."""

import struct
from collections.abc import Iterator
from pathlib import Path

from arch.errors import DataError

MAGIC = 0x950412DE
CONTEXT, PLURAL = "\x04", "\0"


def read(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (message, translation) of a catalogue in UTF-8.

    Left out: messages with several forms for numbers, which correspond to no single one, and the header. The context of a
    message is not part of it. Raises DataError for another file.
    """
    content = path.read_bytes()
    for order in "<>":
        if len(content) >= 20 and struct.unpack_from(f"{order}I", content)[0] == MAGIC:
            break
    else:
        raise DataError(f"{path}: not a compiled catalogue of messages")
    count, messages, translations = struct.unpack_from(f"{order}3I", content, 8)
    for i in range(count):
        try:
            message, translation = (_text(content, order, table + 8 * i) for table in (messages, translations))
        except (struct.error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a whole catalogue of messages in UTF-8 ({error})") from None
        if message and PLURAL not in message:
            yield message.rpartition(CONTEXT)[2], translation


def _text(content, order, place):
    length, begin = struct.unpack_from(f"{order}2I", content, place)
    return content[begin : begin + length].decode()
