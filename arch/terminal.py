"""How wide what a command prints may be."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# What a table without a terminal is wrapped at; rich itself would say 80.
PIPED = 160
# Nothing can be read in fewer columns.
LEAST = 20


def forget_unusable() -> None:
    """A $COLUMNS that is no number of columns, or too few to read, counts as unset: rich would print nothing."""
    wanted = os.environ.get("COLUMNS", "")
    if not wanted.isdecimal() or int(wanted) < LEAST:
        os.environ.pop("COLUMNS", None)


def terminal(piped: int = PIPED, highlight: bool = True) -> "Console":
    """The console that commands print tables on. piped: its width where neither a terminal nor $COLUMNS says one.

    highlight: whether numbers and names that stand in a text are coloured.
    """
    from rich.console import Console

    forget_unusable()
    made = Console(markup=False, highlight=highlight)  # brackets in a label are letters
    if not (made.is_terminal or os.environ.get("COLUMNS")):
        made.width = piped
    return made
