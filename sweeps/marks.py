"""What a user says of a study, beside its record: notes, and that it is archived. `marks.json` in the study's folder.

A study's record is written again by every start, so this is a file of its own. It decides nothing of a result.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from arch.spec import Spec
from experiments.record import read_record, write_record

NAME = "marks.json"


class Note(Spec):
    """A remark. time: when it was written, as ISO 8601 in UTC."""

    time: str
    text: str


class Marks(Spec):
    """archived: whether lists leave the study out."""

    version: Literal[1] = Field(default=1, alias="schema")
    archived: bool = False
    notes: list[Note] = []

    def write(self, folder: Path | str) -> None:
        """Write the file atomically, or remove it where there is nothing to say."""
        path = Path(folder) / NAME
        if self == Marks():
            path.unlink(missing_ok=True)
        else:
            write_record(self, path)

    @classmethod
    def read(cls, folder: Path | str) -> "Marks":
        """The marks of a study's folder. Raises SpecError or ValueError for a file that cannot be read."""
        return read_record(cls, Path(folder) / NAME) or cls()

    @classmethod
    def read_whole(cls, folder: Path | str) -> "Marks":
        """The marks of a study's folder; none where they cannot be read."""
        try:
            return cls.read(folder)
        except (OSError, ValueError):
            return cls()

    def noted(self, text: str) -> "Marks":
        """These marks with a further note."""
        note = Note(time=datetime.now(UTC).isoformat(timespec="seconds"), text=text)
        return self.model_copy(update={"notes": [*self.notes, note]})
