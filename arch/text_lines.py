"""Texts from a file or standard input, one a line, or from the key `text` of each line of a .jsonl file."""

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

from arch.errors import DataError, nearest
from arch.words import is_unicode

STDIN, KEY = "-", "text"


def texts(source: str) -> Iterator[str]:
    """Yields the text of each line of a file, or of standard input for `-`; as a stream, so that memory stays flat.

    Raises DataError, which names file and line, for bytes that are not UTF-8, for what is no JSON object with a text, and for an
    empty text.
    """
    name = "standard input" if source == STDIN else source
    read = _from_json if source.endswith(".jsonl") else _plain
    with _opened(source) as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            text = read(_decoded(line, where, number), where)
            if not text.strip():
                raise DataError(f"{where}: text {number:,} is empty", key=None)
            yield text


def count(source: str) -> int:
    """How many texts a file has, every one of them checked as in `texts`."""
    return sum(1 for _ in texts(source))


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    if source == STDIN:
        return nullcontext(sys.stdin.buffer)
    try:
        return open(source, "rb")
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}", key=None) from None


def _decoded(line, where, number):
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}", key=None) from None
    return text.removesuffix("\n").removesuffix("\r")


def _plain(text, where):
    return text


def _from_json(line, where):
    try:
        said = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error})", key=None) from None
    if not isinstance(said, dict):
        raise DataError(f'{where}: expected an object with the key "{KEY}", got {json.dumps(said)[:40]}', key=None)
    if KEY not in said:
        raise DataError(f'{where}: no key "{KEY}"{nearest(KEY, said)}', key=None)
    if not isinstance(said[KEY], str):
        raise DataError(f"{where}: {KEY}: expected a text, got {json.dumps(said[KEY])[:40]}", key=None)
    if not is_unicode(said[KEY]):
        raise DataError(f"{where}: {KEY}: half of a surrogate pair, which is no text", key=None)
    return said[KEY]
