"""`train.precision: auto` in a study: it becomes one precision for all arms that say it, and the study's folder keeps which.

Else arms of several widths would differ in more than their width, and a study that goes on, or has drivers, on another machine
would become other runs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch import document
from arch.document import Node
from experiments import auto
from experiments.files import write_first
from sweeps.arms import with_overrides
from sweeps.spec import StudySpec, arm_document

KEY = "train.precision"
# In the study's folder.
FILE = ".precision"


@dataclass(frozen=True)
class Settled:
    """What `auto` became, and the sentence on it. labels: the arms and helper runs that say `auto`."""

    became: str
    note: str
    labels: tuple[str, ...]

    def is_of(self, written: Node) -> bool:
        """Whether an experiment's document says `auto`: that of a run which an arm needs, named by its spec."""
        return _says(written) == "auto"

    def document(self, written: Node) -> Node:
        """An experiment's document in which `auto` is what it became."""
        return _replaced(written, self.became)


def settle(spec: StudySpec, study: Node, base: Node, kept: str | None = None) -> tuple[StudySpec, Node, Node, Settled | None]:
    """(spec, study, base) without `auto`, and the Settled; None where nothing says `auto`.

    kept: what the study's folder says that it became. Without it, the narrowest arm decides on this machine.
    """
    documents = {label: arm_document(study, base, label) for label in (*spec.arms, *spec.runs)}
    saying = {label: written for label, written in documents.items() if _says(written) == "auto"}
    if not saying:
        return spec, study, base, None
    of_arms = {label: written for label, written in saying.items() if label in spec.arms} or saying
    first = next(iter(of_arms.values()))
    accelerator = _value(first, ("train", "accelerator")) or "cpu"
    widths = [width for written in of_arms.values() if isinstance(width := _value(written, ("model", "dim")), int)]
    became, why = auto.precision(accelerator, widths or [1])
    if kept and kept != became:
        became, why = kept, "as this study began"
    changed = {label: {KEY: became} for label in saying}
    if _says(base) == "auto":
        base = _replaced(base, became)
        changed = {label: each for label, each in changed.items() if _says(arm_document(study, base, label)) == "auto"}
    if changed:
        spec, study = with_overrides(spec, study, changed, study)
    return spec, study, base, Settled(became, auto.note(became, why), tuple(saying))


def _says(written):
    return _value(written, ("train", "precision"))


def _value(written: Node, path: tuple[str, ...]) -> Any:
    """The plain value at a place of a document, or None."""
    for part in path:
        if not isinstance(written.value, dict) or part not in written.value:
            return None
        written = written.value[part]
    return written.value


def _replaced(written, became):
    return document.override(written, KEY, document.node(became)) if _says(written) == "auto" else written


def kept(folder: Path) -> str | None:
    """What `auto` became when the study in this folder began; None if it has not, or says no `auto`."""
    try:
        return (folder / FILE).read_text().strip() or None
    except OSError:
        return None


def keep(folder: Path, became: str) -> str:
    """What the folder keeps from now on: of several drivers that start together, what the first one wrote. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        write_first(folder / FILE, f"{became}\n".encode())
    return kept(folder) or became
