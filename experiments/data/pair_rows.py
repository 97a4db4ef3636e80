"""Pairs in rows of files and data sets: which key holds what, and what is wrong with a row."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from arch.errors import DataError, nearest
from arch.spec import Spec
from experiments.data.pair import Pair, check
from experiments.data.text_rows import kind_of

COLUMNS = ("data", "source", "columns")


class Columns(Spec):
    """Which key or column holds what.

    query, positive: the two texts, in every row. negatives: hard negatives, a text or a list of texts; of all rows or none.
    group: rows of a group are in the same split. label: what a probe may predict. The last three are read where they are
    there; null leaves one out, and one that has another name than here must be in every row.
    """

    query: str = "query"
    positive: str = "positive"
    negatives: str | None = "negatives"
    group: str | None = "group"
    label: str | None = "label"

    def expected(self) -> list[str]:
        """The keys that every row must have."""
        named = [key for option in ("negatives", "group", "label") if (key := getattr(self, option)) not in (None, option)]
        return [self.query, self.positive, *named]

    def optional(self) -> list[str]:
        """The keys that a row may have."""
        return [key for key in (self.negatives, self.group, self.label) if key is not None and key not in self.expected()]


def pairs(rows: Iterable[tuple[str, Any]], columns: Columns) -> Iterator[Pair]:
    """The Pair of each row. rows: (name, row), as the file has it. Raises DataError, which begins with the name of the row."""
    first: tuple[str, bool] | None = None
    for name, row in rows:
        pair = _pair(name, row, columns)
        first = first or (name, bool(pair.negatives))
        if first[1] != bool(pair.negatives):
            has, lacks = (first[0], name) if first[1] else (name, first[0])
            raise DataError(
                f"{lacks}: no hard negatives, but {has} has some; expected them in every row or in none "
                "(data.source.columns.negatives: null leaves them out)",
                COLUMNS,
            )
        yield pair


def _pair(name, row, columns):
    if not isinstance(row, Mapping):
        raise DataError(f"{name}: expected an object with the keys {columns.query!r} and {columns.positive!r}")
    for key in columns.expected():
        if key not in row:
            raise DataError(f"{name}: no key {key!r} (data.source.columns){nearest(key, row)}", COLUMNS)
    query, positive = (_text(name, key, row[key]) for key in (columns.query, columns.positive))
    group, label = (_word(name, key, row.get(key)) for key in (columns.group, columns.label))
    pair = Pair(query, positive, _negatives(name, columns.negatives, row.get(columns.negatives)), group, label)
    check(pair, name)
    return pair


def _text(name, key, value):
    if not isinstance(value, str):
        raise DataError(f"{name}: the value of {key!r} is {kind_of(value)}; expected text")
    return value


def _negatives(name, key, value):
    values = [value] if isinstance(value, str) else value or []
    if not isinstance(values, (list, tuple)):
        raise DataError(f"{name}: the value of {key!r} is {kind_of(value)}; expected a text or a list of texts")
    return tuple(_text(name, key, each) for each in values)


def _word(name, key, value):
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{name}: the value of {key!r} is {kind_of(value)}; expected a text or a whole number")
    return str(value)
