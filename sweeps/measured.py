"""`archbench evaluate STUDY`: every finished run is measured, with a line for each and one table of all numbers."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arch import units
from arch.errors import SpecError
from arch.stacked import stacked
from arch.words import listed
from experiments.evaluations import Evaluation
from experiments.record import EvaluationRecord
from sweeps.outcomes import finished_runs

# What was measured of one run: each evaluation with its record, and whether it is new.
Measured = Sequence[tuple[Evaluation, EvaluationRecord, bool]]


def of_study(folder: Path, measure: Callable[[Path], Measured], console: Any) -> None:
    """Measure every finished run of the study in a folder. Raises SpecError where that is possible for none of them."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    runs, rows, refused = finished_runs(folder) or [], {}, None
    for i, (title, run) in enumerate(runs):
        began = time.monotonic()
        try:
            done = measure(run)
        except SpecError as error:  # such as an evaluator that this arm's model cannot serve
            refused = refused or error
            say(f"[{i + 1}/{len(runs)}] {title}: not measured: {error}")
            continue
        say(f"[{i + 1}/{len(runs)}] {title}: {_said(done, time.monotonic() - began)}")
        rows[title] = done
    if not rows:
        raise refused or SpecError(f"{folder}: the study has no finished run")
    say("")
    names = list(dict.fromkeys(name for done in rows.values() for _, record, _ in done for name in record.values))
    if names:
        console.print(
            stacked(console, "what was measured", ["run", *names], [_row(title, each, names) for title, each in rows.items()])
        )
    say(f"tables and texts: archbench evaluate RUN, such as {runs[0][1]}; draw them: archbench report {folder}")


def _said(done: Measured, seconds: float) -> str:
    """`report.loss measured in 3.2 s; report.sample was there`."""
    new = [each.key for each, _, is_new in done if is_new]
    old = [each.key for each, _, is_new in done if not is_new]
    parts = [f"{listed(new)} measured in {units.duration(seconds)}"] if new else []
    parts += [f"{listed(old)} {'was' if len(old) == 1 else 'were'} there"] if old else []
    return "; ".join(parts) or "nothing to measure"


def _row(title: str, done: Measured, names: Sequence[str]) -> list[str]:
    values = {name: value for _, record, _ in done for name, value in record.values.items()}
    return [title, *(units.cell(values[name]) if name in values else units.DASH for name in names)]
