"""A table for a terminal that shows every cell whole: where the terminal is narrow, the cells of a row stand below each other."""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A label in the first column is folded down to this width before cells are stacked.
LABEL = 16
# A heading is folded down to this width.
NARROW = 10
# A stacked cell gets at least this width, however narrow the terminal is.
LEAST = 12
# A name in front of a stacked cell is folded to this width.
NAME = 32


def stacked(console: Console, title: str | None, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with a label in its first column. Where it is too wide, each cell has its column's name in front, and as many of
    them stand beside each other as there is room for. Then empty cells are left out.

    Before that, headings that are wider than their cells are folded.
    """
    for tried in (headings, _folded(headings, rows)):
        if _width(tried, rows) <= console.width:
            return _table(title, tried, rows)
    return _named(title, headings, rows, console.width)


def _label(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The least width of the first column."""
    return min(LABEL, max(cell_len(line) for row in [headings, *rows] for line in row[0].split("\n")))


def _folded(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The headings in lines that are as wide as the cells below them, or as the longest word."""
    widths = [max((cell_len(row[i]) for row in rows), default=0) for i in range(len(headings))]
    lines = [
        textwrap.wrap(heading, max(width, NARROW), break_long_words=False) for heading, width in zip(headings, widths, strict=True)
    ]
    return ["\n".join(each) for each in lines]


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width of a table with a column per heading and its frame, where only the labels are folded."""
    columns = zip(*(row[1:] for row in [headings, *rows]), strict=True)
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    return sum(width + 3 for width in [_label(headings, rows), *widths]) + 1


def _table(title: str | None, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(headings[0], overflow="fold", min_width=_label(headings, rows))
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _named(title: str | None, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """The table whose cells have their names in front, in as many groups of columns as have room in a width."""
    label, others = _label(headings, rows), range(1, len(headings))
    room = max(LEAST, width - label - 4)
    for groups in range(len(others), 0, -1):
        size = -(-len(others) // groups)
        parts = [others[i : i + size] for i in range(0, len(others), size)]
        widths = [_pair_widths(part, headings, rows) for part in parts]
        if sum(name + 2 + value + 3 for name, value in widths) <= room:
            break
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column(headings[0], overflow="fold", min_width=label)
    for name, value in widths:
        table.add_column("", no_wrap=True, min_width=min(name + 2 + value, room - 3))
    for row in rows:
        cells = ["\n".join(_pairs(part, headings, row, each, room - 3)) for part, each in zip(parts, widths, strict=True)]
        table.add_row(*map(Text, [row[0], *cells]))
    return table


def _pair_widths(part: Sequence[int], headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """The widths of the names and of the values in a group of columns."""
    names = max(cell_len(line) for i in part for line in textwrap.wrap(headings[i], NAME) or [""])
    return names, max((cell_len(row[i]) for row in rows for i in part), default=0)


def _pairs(part: Sequence[int], headings: Sequence[str], row: Sequence[str], widths: tuple[int, int], room: int) -> list[str]:
    """The lines of a row's cells in a group: `name      value`; a value without room is folded below its name."""
    lines, width = [], min(sum(widths) + 2, room)
    for i in part:
        if not row[i]:
            continue
        name, value = textwrap.wrap(headings[i], min(NAME, width)) or [""], row[i]
        gap = width - cell_len(name[-1]) - cell_len(value)
        if gap >= 2:
            lines += [*name[:-1], f"{name[-1]}{' ' * gap}{value}"]
        else:
            lines += [*name, *(f"  {each}" for each in textwrap.wrap(value, width - 2))]
    return lines
