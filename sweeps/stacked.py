"""A table for a terminal that shows every cell whole: where the terminal is narrow, columns share lines."""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

# A label in the first column is folded down to this width before columns share lines.
LABEL = 16
# A heading is folded down to this width.
NARROW = 10


def stacked(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with a label in its first column. As few columns as necessary share lines, heading below heading.

    Before columns share lines, headings that are wider than their cells are folded.
    """
    for tried in (headings, _folded(headings, rows)):
        if _width(tried, rows, 1) <= console.width:
            return _table(title, tried, rows, 1)
    for together in range(2, len(headings)):
        table = _table(title, headings, rows, together)
        if _width(headings, rows, together) <= console.width:
            break
    return table


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


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]], together: int) -> int:
    """The width of such a table with its frame, where only the labels are folded."""
    columns = zip(*(_joined(row, together) for row in [headings, *rows]), strict=True)
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    return sum(width + 3 for width in [_label(headings, rows), *widths]) + 1


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], together: int) -> Table:
    table = Table(title=title, title_justify="left", show_lines=together > 1)
    table.add_column(headings[0], overflow="fold", min_width=_label(headings, rows))
    for heading in _joined(headings, together):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row[0], *_joined(row, together))
    return table


def _joined(cells: Sequence[str], together: int) -> list[str]:
    """The cells after the first, `together` in each."""
    others = cells[1:]
    return ["\n".join(others[i : i + together]) for i in range(0, len(others), together)]
