"""From which state a run goes on: its newest checkpoint that can be read whole, else step 0; and what is said about it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from experiments import checkpoint
from experiments.record import HISTORY_NAME, RunRecord
from experiments.sharded import Damaged

MARKER = "checkpoint.identity"


class Origin(NamedTuple):
    """Where a start of a run goes on. path: the checkpoint, None at step 0. step: the optimizer steps that it has.

    warning: what is wrong with checkpoints that should have been newer; empty if nothing is. again: whether the run was
    trained before.
    """

    path: Path | None
    step: int = 0
    warning: str = ""
    again: bool = False


def origin(folder: Path, identity: str, seed: int, earlier: RunRecord | None) -> Origin:
    """The Origin of the run with this identity and seed. earlier: the record of its start before this one, if it has one.

    Checkpoints of another run, and those that cannot be read, are deleted. MARKER says which run writes checkpoints here.
    Raises OSError where the machine does not let a checkpoint be read.
    """
    marker, mine = folder / MARKER, f"{identity} {seed}"
    wrong: list[str] = []
    for path, read in checkpoint.states(folder):
        try:
            step, run = read()
            if run != [identity, seed] and (run or not _is_of(marker, mine)):
                raise Damaged("it is of another run" if run else f"nothing says of which run it is ({MARKER} is missing)")
        except Damaged as damaged:
            wrong.append(f"{path.name}: {damaged}")
            _remove(path)
        else:
            marker.write_text(mine)
            warning = f"{'; '.join(wrong)}; resumed at step {step}, from {path.name}" if wrong else ""
            return Origin(path, step, warning, again=True)
    checkpoint.discard(folder)
    trained = earlier is not None and (earlier.steps > 0 or (folder / HISTORY_NAME).is_file())
    if trained and not wrong:
        wrong.append("no checkpoint of it is left")
    (folder / HISTORY_NAME).unlink(missing_ok=True)
    marker.write_text(mine)
    return Origin(None, 0, f"{'; '.join(wrong)}; started again at step 0" if wrong else "", bool(wrong))


def _is_of(marker: Path, mine: str) -> bool:
    try:
        return marker.read_bytes() == mine.encode()
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def told(record: RunRecord, found: Origin, earlier: RunRecord | None) -> RunRecord:
    """A run's record with what it says of its start; `resumed` also has the earlier starts."""
    before: list[int] = list(earlier.resumed) if earlier else []
    more: dict[str, Any] = {"resumed": [*before, found.step] if found.again else before}
    if found.warning:
        more["notes"] = [*record.notes, found.warning]
    return record.model_copy(update=more)
