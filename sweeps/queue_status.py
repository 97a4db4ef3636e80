"""Who works on what: the queue of a study in a shared storage, as text. It reads no run and needs no study folder."""

from datetime import UTC, datetime
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from arch.errors import SpecError
from arch.words import times
from sweeps import open_queue, queue_rows, storage
from sweeps.leases import Terms
from sweeps.progress import clock
from sweeps.queue_rows import Row


def printed(url: str, study: str, scale: str | None, console: Console) -> None:
    """Print the queue of a study. Raises SpecError for a storage that cannot be opened."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    name, opened = open_queue.name_of(study, scale), storage.opened(url, make=False)
    try:
        queue = opened and optuna.load_study(study_name=name, storage=opened)
        rows = [queue_rows.row_of(trial) for trial in queue.get_trials(deepcopy=False)] if queue else []
        attrs = queue.user_attrs if queue else {}
    except KeyError:
        queue = None
    except storage.away() as error:
        raise SpecError(f"the storage is away: {storage.why_away(error)}", file=storage.shown(url)) from None
    if queue is None:
        say(f"no driver has worked on {name} in {storage.shown(url)}")
        return
    terms = Terms(*attrs["terms"]) if "terms" in attrs else Terms()
    say(f"queue {name} in {storage.shown(url)}; runs in {attrs.get('host')}:{attrs.get('folder')}")
    running = [row for row in rows if row.state == "RUNNING" and row.run is not None]
    if running:
        console.print(_table(running, terms))
    say(", ".join(f"{number} {what}" for what, number in queue_rows.counts(rows)) or "nothing was queued yet")
    for line in troubles(rows, attrs, terms):
        say(line)


def troubles(rows: list[Row], attrs: dict[str, Any], terms: Terms) -> list[str]:
    """Sentences on the runs that nobody will do: given up, failed, blocked by others."""
    lines = []
    for run, tries in queue_rows.by_run(rows).items():
        failed, lost = queue_rows.failures(tries, attrs.get("forgiven", -1))
        if any(row.is_live or row.state == "COMPLETE" for row in tries):
            continue
        if failed:
            lines.append(f"failed: {run}: {failed.note}")
        elif len(lost) >= terms.losses:
            given_up = f"given up after it was lost {times(len(lost), 'time')}"
            lines.append(f"{given_up}: {run}: {lost[-1].note}; `--again` tries it once more")
        elif lost:
            lines.append(f"lost, to be tried again: {run}: {lost[-1].note}")
    return [*lines, *(f"blocked: {run}: {why}" for run, why in attrs.get("blocked", {}).items())]


def _table(rows, terms):
    table = Table()
    for column in ("run", "attempt", "host", "process", "step", "last beat (by that host's clock)"):
        table.add_column(column)
    for row in sorted(rows, key=lambda row: row.run):
        beat = row.beat or {}
        table.add_row(
            row.run, str(row.number), beat.get("host", "?"), str(beat.get("pid", "?")), str(beat.get("step", "")), _age(beat, terms)
        )
    return table


def _age(beat, terms):
    """How long ago a beat was, by the clocks of two machines: for display only."""
    if "time" not in beat:
        return "none yet"
    age = (datetime.now(UTC) - datetime.fromisoformat(beat["time"])).total_seconds()
    late = " (late: its lease may end)" if age > terms.lease / 2 else ""
    return f"{clock(max(0.0, age))} ago{late}"
