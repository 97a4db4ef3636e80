"""What a simulation found, as a file and as Markdown: `results/simulation.json` and the tables of docs/statistics.md."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from arch.document import ROOT
from arch.errors import DataError
from arch.spec import Spec
from experiments.files import write_atomically
from experiments.record import read_record, write_record

FILE, DOCUMENT = ROOT / "results" / "simulation.json", ROOT / "docs" / "statistics.md"
START, END = "<!-- simulation: written by `make simulate` -->\n", "<!-- end of simulation -->\n"
# How many standard errors of the simulation a number may be away from what it should be.
ERRORS = 3.5
# The expected numbers are printed with two digits and come from a simulation too.
ROUNDED = 0.012


class Cell(Spec):
    """One number of a table: the mean of something over studies. error: its standard error.

    at_most: what it must not exceed. expected: what it is where the same was simulated or computed in another way.
    """

    table: str
    row: str
    column: str
    value: float
    error: float
    studies: int
    at_most: float | None = None
    expected: float | None = None

    @property
    def faults(self):
        """How the number is not what it should be, in words; empty if it is."""
        place = f"{self.table}; {self.row}; {self.column}: {self.value:.4f} ± {self.error:.4f}"
        if self.at_most is not None and self.value > self.at_most + self._tolerance(self.at_most):
            return f"{place}, expected at most {self.at_most:g}"
        if self.expected is not None:
            allowed = self._tolerance(self.expected) + ROUNDED * max(1.0, self.expected)
            if abs(self.value - self.expected) > allowed:
                return f"{place}, expected {self.expected:g}"
        return ""

    def _tolerance(self, truth):
        """How far the number may be from the truth by chance. That of a share is binomial, also where none or all was counted."""
        binomial = (truth * (1 - truth) / self.studies) ** 0.5 if truth <= 1 else 0.0
        return ERRORS * max(self.error, binomial)


class SimulationRecord(Spec):
    """A run of `archbench study simulate`. studies: the usual number per scenario. times in seconds."""

    version: Literal[1] = Field(default=1, alias="schema")
    command: str
    studies: int
    hardware: dict[str, Any]
    versions: dict[str, str]
    started: str
    seconds: float
    cells: list[Cell]

    def write(self, path=FILE):
        """Write it as JSON, whole or not at all."""
        write_record(self, Path(path))

    @classmethod
    def read(cls, path=FILE):
        """The record in a file, or None if there is none."""
        return read_record(cls, Path(path))

    @property
    def faults(self):
        """The numbers that are not what they should be, in words."""
        return [cell.faults for cell in self.cells if cell.faults]


def markdown(record):
    """The tables of a SimulationRecord as Markdown, and how they were made."""
    machine = f"{record.hardware.get('cpu', '?')}, {record.hardware.get('cores', '?')} cores"
    lines = [
        f"`{record.command}` on {machine}: {record.seconds / 60:.0f} minutes, up to {record.studies:,} studies per number. ± is "
        "one standard error of the simulation; `≤` is what the rule promises; `=` is what an independent simulation of the "
        "rule, or a formula, gives.",
        "",
    ]
    for table in dict.fromkeys(cell.table for cell in record.cells):
        cells = {(cell.row, cell.column): cell for cell in record.cells if cell.table == table}
        columns = list(dict.fromkeys(column for _, column in cells))
        lines += [f"**{table}**", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for row in dict.fromkeys(row for row, _ in cells):
            lines.append(f"| {row} | {' | '.join(_text(cells.get((row, column))) for column in columns)} |")
        lines.append("")
    return "\n".join(lines)


def _text(cell):
    if cell is None:
        return ""
    digits = 3 if cell.value <= 1 else 1
    text = f"{cell.value:.{digits}f} ± {cell.error:.{digits}f}"
    if cell.expected is not None:
        return f"{text} (= {cell.expected:.{digits}f})"
    return text if cell.at_most is None else f"{text} (≤ {cell.at_most:.2f})"


def rewritten(text, record):
    """A document's text with the tables of the record between its two marks. Raises DataError without them."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise DataError(f"{DOCUMENT}: expected the lines {START.strip()!r} and {END.strip()!r}", key=None)
    return before + start + "\n" + markdown(record) + "\n" + end + after


def rewrite(record, path=DOCUMENT):
    """Write the tables of a record into a document."""
    write_atomically(Path(path), rewritten(Path(path).read_text(), record).encode())
