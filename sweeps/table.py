"""The display of a running study: a live table of arms and seeds on a terminal, plain lines elsewhere."""

import time

from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.progress import Progress, clock

EVERY = 20.0
STYLES = {
    "to do": "dim",
    "running": "cyan",
    "reused": "green",
    "finished": "green",
    "failed": "bold red",
    "lost": "bold red",
    "interrupted": "yellow",
    "unreadable": "bold red",
    "to measure": "yellow",
    "waiting": "yellow",
    "again": "yellow",
}


def display(console, title, jobs, finished=(), total=0):
    """The display that fits the console: a context manager to be called with every Event."""
    kind = LiveTable if console.is_terminal else Lines
    return kind(console, title, Progress(jobs, finished, total))


class LiveTable:
    """Arms by seeds, redrawn in place: state, share done, latest loss, tokens per second, and the time left."""

    def __init__(self, console, title, progress):
        self.console, self.title, self.progress = console, title, progress
        self.live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4)

    def __enter__(self):
        self.live.start()
        return self

    def __exit__(self, *exception):
        self.live.stop()

    def __call__(self, event):
        self.progress.take(event)
        if event.kind in ("again", "waiting", "stopping") or (event.message and not event.outcome):
            self.console.print(Text(_said(event), style="yellow"))
        elif event.outcome and event.outcome.status in ("failed", "lost"):
            self.console.print(Text(_said(event), style="red"))

    def _drawn(self):
        return Group(grid(self.progress.cells, self.title, self.console.width), Text(_summary(self.progress)))


class Lines:
    """One line per run that ends, and at most every 20 s one line about the study's progress."""

    def __init__(self, console, title, progress):
        self.console, self.title, self.progress = console, title, progress
        self.last = time.monotonic()

    def __enter__(self):
        self._print(self.title)
        return self

    def __exit__(self, *exception):
        pass

    def __call__(self, event):
        self.progress.take(event)
        if event.kind in ("ended", "again", "waiting", "stopping") or event.message:
            self._print(_said(event, self.progress))
        elif time.monotonic() - self.last >= EVERY:
            running = [
                f"{row} {column} {_content(cell)}" for (row, column), cell in self.progress.cells.items() if cell.state == "running"
            ]
            self._print(f"{_summary(self.progress)} | {'; '.join(running)}")

    def _print(self, text):
        self.last = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def grid(cells, title, width):
    """A rich Table of `{(row, column): Cell}`. Each row has its cells below each other where it would be wider than `width`, and
    where most places would be empty, as those of arms with seeds of their own.
    """
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    widths = {column: max(len(_content(cell)) for (_, other), cell in cells.items() if other == column) for column in columns}
    frame = 3 * len(columns) + 4
    needed = max(map(cell_len, rows), default=0) + sum(max(len(column), widths[column]) for column in columns) + frame
    if needed > width or 2 * len(cells) < len(rows) * len(columns):
        return _narrow(cells, title, rows)
    table = Table(title=title, title_justify="left")
    table.add_column("arm", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            Text(row),
            *(Text(_content(cell), style=STYLES[cell.state]) if (cell := cells.get((row, column))) else "" for column in columns),
        )
    return table


def _narrow(cells, title, rows):
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("arm", overflow="fold")
    table.add_column("runs")
    for row in rows:
        lines = [(column, cell) for (each, column), cell in cells.items() if each == row]
        table.add_row(Text(row), Text("\n").join(Text(f"{column}: {_content(cell)}", STYLES[cell.state]) for column, cell in lines))
    return table


def _content(cell):
    loss = "" if cell.loss is None else f" {cell.loss:.4f}"
    if cell.state == "running" and cell.preparing:
        return cell.preparing
    if cell.state == "running":
        speed = "" if not cell.speed else f" {cell.speed:,.0f} tok/s"
        return f"{cell.share:.0%}{loss}{speed}"
    if cell.state in ("finished", "reused"):
        return f"{cell.state}{loss}"
    return cell.state


def _summary(progress):
    ended, total = progress.counts()
    left = progress.seconds_left()
    rest = "" if ended == total else f", {clock(left)} left" if left is not None else ""
    return f"{ended} of {total} runs, {progress.share():.0%}, {clock(time.monotonic() - progress.began)} elapsed{rest}"


def _said(event, progress=None):
    """One line that describes an event."""
    if event.outcome is None:
        return f"{event.job.title}: {event.message}" if event.job else event.message
    cell = progress.cells[event.job.cell] if progress else None
    count = "[{}/{}] ".format(*progress.counts()) if progress else ""
    loss = f", loss {cell.loss:.4f}" if cell and cell.loss is not None else ""
    took = f" in {clock(time.monotonic() - cell.began)}" if cell and cell.began else ""
    why = f": {event.outcome.message}" if event.outcome.message else ""
    return f"{count}{event.job.title} {event.outcome.status}{took}{loss}{why}"
