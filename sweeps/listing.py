"""How `archbench study list` and `gc` print: your studies, the shipped ones, and what may go."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arch import document, units
from arch.words import listed, times, visible
from sweeps import outline
from sweeps.catalog import Entry
from sweeps.removal import Waste

# Paths of one kind of waste that are named.
NAMED = 5


def printed(shown: Sequence[Entry], every: Sequence[Entry], runs: Path | str, console: Any) -> None:
    """Print the entries to show, two or three lines each; every: all that there are."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    if not every:
        say(f"no study in {runs} yet; `archbench study run STUDY` begins one")
        return
    hidden = sum(each.marks.archived for each in every if each not in shown)
    left = len(every) - len(shown) - hidden
    counted = [f"{units.size(sum(each.disk for each in every))} in {runs}"]
    counted += [f"{left} more do not match"] if left else []
    counted += [f"{hidden} archived (--archived)"] if hidden else []
    say(f"{times(len(shown), 'study') if len(shown) == 1 else f'{len(shown)} studies'}, {', '.join(counted)}")
    rows = [(each.place, each.progress, each.when or units.DASH, units.size(each.disk), each.verdict) for each in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for each, row in zip(shown, rows, strict=True):
        cells = [f"{cell:{'>' if i == 3 else '<'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        say("  ".join(cells).rstrip())
        for line in (each.question or each.why, *(f"note: {note.text}" for note in each.marks.notes[-1:])):
            say(f"    {'archived; ' if each.marks.archived else ''}{visible(line, one_line=True)}")


def shipped(words: Sequence[str], every: Sequence[Entry] = ()) -> None:
    """Print the shipped studies in which every word occurs: question, and per scale what it would run and how it stands.

    every: the studies that have begun, by whose name and scale that is known.
    """
    found = False
    for name in document.shipped("sweeps"):
        root = document.load(name, "sweeps")
        question = root.value.get("question", document.node("")).plain()
        if all(word.casefold() in f"{name} {question}".casefold() for word in words):
            states = {
                each.scale: ": ".join(filter(None, (each.progress, each.verdict)))
                for each in every
                if each.name.removeprefix("sweeps/") == name
            }
            print(f"{name}: {question}")
            print(f"    {'; '.join(outline.lines(root, states))}")
            found = True
    if words and not found:
        print(f"no shipped study has {listed(map(repr, words))} in its name or question")


def wasted(parts: Iterable[Waste]) -> list[str]:
    """Lines that say what may go, kind by kind, with the first paths of each."""
    lines = []
    for part in parts:
        lines.append(f"{units.size(part.bytes):>9}  {len(part.paths):,} {part.what}")
        lines += [f"{'':11}{os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}" for path in part.paths[:NAMED]]
        if len(part.paths) > NAMED:
            lines.append(f"{'':11}and {len(part.paths) - NAMED:,} more")
    return lines
