"""A table of text as CSV, Markdown, LaTeX, HTML, or for a terminal; parts of cells that these share."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from arch import units
from arch.spec import spelt

# As wide as cells need, where no terminal says how wide it is.
WIDEST = 1000


def csv(frame: pd.DataFrame) -> str:
    """The unrounded numbers of a DataFrame as CSV, with `.` for decimals; a missing number is an empty cell."""
    return frame.to_csv(index=False, lineterminator="\n")


def markdown(shown: pd.DataFrame) -> str:
    """A DataFrame of text as Markdown."""
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def text(shown: pd.DataFrame) -> str:
    """A DataFrame of text for a terminal: in columns, or, where the terminal is narrower, with the cells of a row stacked."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from arch.stacked import stacked
    from arch.terminal import terminal

    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    for name in shown:
        longest = max(len(line) for cell in shown[name] for line in _in_lines(cell).split("\n"))
        table.add_column(
            _in_lines(name), justify="left" if name in ("arm", "comparison", "claim", "verdict") else "right", min_width=longest
        )
    for row in shown.values.tolist():
        table.add_row(*(Text(_in_lines(cell)) for cell in row))
    # Without colours: who prints the text shows control characters as such.
    console, width = Console(width=WIDEST, color_system=None, markup=False), terminal(piped=WIDEST).width
    if console.measure(table).maximum > width:
        console = Console(width=width, color_system=None, markup=False)
        table = stacked(console, None, list(shown), shown.values.tolist())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def _in_lines(cell):
    """A cell with line breaks before brackets and long parts."""
    return cell.replace(" [", "\n[").replace(" (", "\n(").replace("FLOPs per token", "\nFLOPs per token").replace(" at ", "\nat ")


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    units.MINUS: "$-$",
    units.DASH: "--",
    units.SPACE: "~",
    "…": r"\ldots{}",
}


def any_frame(frame: pd.DataFrame, form: str) -> str:
    """Any DataFrame as `csv`, `markdown` or `latex`; rounded in the latter two."""
    if form == "csv":
        return csv(frame)
    cell = lambda value: units.DASH if units.absent(value) else f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
    return (markdown if form == "markdown" else latex)(frame.map(cell))


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(LATEX.get(char, char) for char in text)


def latex(shown: pd.DataFrame) -> str:
    """A DataFrame of text as a booktabs tabular."""
    cells = lambda line: " & ".join(map(escaped, line))  # noqa: E731
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * shown.shape[1]}}}",
            r"\toprule",
            rf"{cells(shown.columns)} \\",
            r"\midrule",
            *(rf"{cells(line)} \\" for line in shown.values.tolist()),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def two_lines(cell: str) -> str:
    """A cell with its interval or ratio on a second, smaller line."""
    for mark in (" [", " (×", " (+", f" ({units.MINUS}", " (equivalence"):
        if mark in cell:
            first, rest = cell.split(mark, 1)
            return f"{html.escape(first)}<small>{html.escape((mark + rest).strip())}</small>"
    return html.escape(cell)


def plain_html(frame: pd.DataFrame, index: bool = True) -> str:
    """A DataFrame of text as an HTML table, escaped."""
    head = (["<th></th>"] if index else []) + [f"<th>{html.escape(str(name))}</th>" for name in frame]
    rows = []
    for name, values in zip(frame.index, frame.values.tolist(), strict=True):
        first = [f"<th scope=row>{html.escape(str(name))}</th>"] if index else []
        rows.append(f"<tr>{''.join(first + [f'<td>{html.escape(str(value))}</td>' for value in values])}</tr>")
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def pairs(data: Mapping[str, Any]) -> str:
    """A mapping on one line: `torch: 2.13.0, python: 3.11.7`."""
    return ", ".join(f"{key}: {spelt(value)}" for key, value in data.items())
