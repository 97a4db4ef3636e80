"""What a source leaves out of its texts, and why: counted, with the first few names."""

from dataclasses import dataclass, field
from typing import Any

from arch.words import listed, times

FIRST = 3


@dataclass
class LeftOut:
    """reasons: {`empty files`, ...: [count, the first names]}. folders: {a folder that was asked for: the files taken in it}.

    remarks: further sentences about the texts.
    """

    reasons: dict[str, list[Any]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, reason: str, name: str) -> None:
        """One more thing that is left out."""
        entry = self.reasons.setdefault(reason, [0, []])
        entry[0] += 1
        if entry[0] <= FIRST:
            entry[1].append(name)

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record: `skipped`, `folders` and `remarks`, where there are any."""
        skipped = {reason: {"count": count, "first": first} for reason, (count, first) in self.reasons.items()}
        folders = {folder: {"files": len(files), "first": files[:FIRST]} for folder, files in self.folders.items()}
        return {key: value for key, value in (("skipped", skipped), ("folders", folders), ("remarks", self.remarks)) if value}


def with_changed(summary: dict[str, Any], changed: str, count: int, on_loss: str) -> dict[str, Any]:
    """A `LeftOut.summary` that also says how many of what its tokenizer changes are left out, or are kept (`data.on_loss`).

    changed: what they are, in words.
    """
    if not count:
        return summary
    if on_loss == "skip":
        return {**summary, "skipped": {**summary.get("skipped", {}), changed: {"count": count, "first": []}}}
    return {**summary, "remarks": [*summary.get("remarks", []), f"kept (data.on_loss: keep): {changed}: {count}"]}


def sentences(summary: dict[str, Any]) -> list[str]:
    """What `LeftOut.summary` says, for a person: a sentence for each reason and each folder."""
    said = list(summary.get("remarks", []))
    for folder, about in summary.get("folders", {}).items():
        files = _some(times(about["files"], "file"), about["first"], about["files"])
        said.append(f"data.source: {folder} is a folder; read from it: {files}")
    for reason, about in summary.get("skipped", {}).items():
        said.append(f"skipped: {reason}: {_some(str(about['count']), about['first'], about['count'])}")
    return said


def _some(count, first, of):
    rest = [f"{of - len(first):,} more"] if first and of > len(first) else []
    return f"{count} ({listed([*first, *rest])})" if first else count
