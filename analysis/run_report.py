"""What was measured of a single run or of a checkpoint, as one self-contained page: `evaluations.html` in its folder."""

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

from analysis import evaluated, measurements, ran, shown_pictures, style
from analysis.evaluated import Evaluated
from analysis.forms import pairs
from arch import units
from arch.errors import DataError
from experiments.files import write_atomically
from experiments.record import EVALUATIONS, RECORDS, RunRecord, record_file
from sweeps.folders import WEIGHTS

NAME = "evaluations.html"


def is_run(folder: Path | str) -> bool:
    """Whether a folder is that of a run or of a checkpoint."""
    folder = Path(folder)
    return any((folder / name).exists() for name in (*RECORDS, EVALUATIONS, WEIGHTS))


def write(folder: Path | str, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the page of a run or of a checkpoint into its folder, or into `out`; returns its path, and what could not be read
    or drawn.

    Raises DataError where nothing was measured.
    """
    problems: list[str] = []
    folder = Path(folder)
    record = _record(folder, problems)
    name = called(folder.resolve())
    run = evaluated.Run(folder, record.identity if record else None)
    found = evaluated.read({(name, record.seed if record else 0): run}, [name], problems)
    if not found:
        reason = f"; {problems[0]}" if problems else f"; `archbench evaluate {shlex.quote(str(folder))} --with NAME` measures it"
        raise DataError(f"{folder}: nothing was measured of it{reason}", key=None)
    path = (folder if out is None else out) / NAME
    write_atomically(path, page(name, folder, record, found, problems).encode())
    return path, problems


def called(folder: Path) -> str:
    """What a folder is called: of a seed also its run; of a single run its spec."""
    if not folder.name.startswith("seed-"):
        return folder.name
    run = folder.parent
    return f"{(run.parent if run.parent.parent.name == 'single' else run).name}/{folder.name}"


def _record(folder: Path, problems: list[str]) -> RunRecord | None:
    """The run's record; None for a checkpoint that is no run, and, with a problem, for a broken one."""
    try:
        return RunRecord.read(folder)
    except (OSError, ValueError) as error:
        problems.append(f"{record_file(folder)}: cannot be read: {error}")
        return None


def page(name: str, folder: Path, record: RunRecord | None, found: Sequence[Evaluated], problems: Sequence[str]) -> str:
    """The whole page as HTML text."""
    where = f"{'run' if record else 'checkpoint'} {html.escape(str(folder))}"
    parts = [
        f"<header><p class=where>{where}</p><h1>{html.escape(name)}</h1></header>",
        _numbers(name, found),
        measurements.section(found, [name], [metric for each in found for metric in each.metrics], "Pictures"),
        _texts(name, record, found),
        shown_pictures.section(found, [name]),
        _facts(record),
        _problems(problems),
        "<section><h2>Write this page again</h2>"
        f"<p><code>archbench report {html.escape(shlex.quote(str(folder)))}</code></p></section>",
    ]
    return style.page(name, parts)


def _numbers(name: str, found: Sequence[Evaluated]) -> str:
    """Every metric, one per row, below the evaluation that it is of."""
    rows = []
    for each in found:
        if each.metrics:
            rows.append(f"<tr><th colspan=2>{html.escape(measurements.heading(each))}</th></tr>")
            rows += [measurements.metric_row(each, metric, [name]) for metric in each.metrics]
    return f"<section><h2>Numbers</h2><table class=compact>{''.join(rows)}</table></section>" if rows else ""


def _texts(name: str, record: RunRecord | None, found: Sequence[Evaluated]) -> str:
    """What the model wrote: the texts of evaluators, and the sample of the run's record if none of them is it."""
    texts = {
        f"{each.key}{f' ({each.options})' if each.options else ''}": measured.text for each in found for measured in each.of(name)
    }
    if record and record.sample and record.sample not in texts.values():
        texts["sample"] = record.sample
    shown = "".join(f"<h3>{html.escape(key)}</h3><pre>{html.escape(text)}</pre>" for key, text in texts.items() if text)
    return f"<section><h2>Texts</h2>{shown}</section>" if shown else ""


def _facts(record: RunRecord | None) -> str:
    """What the run's record says of where and how it was trained."""
    if record is None:
        return ""
    rows = {
        "status": record.status,
        "seed": str(record.seed),
        "steps": f"{record.steps:,}",
        "tokens": units.count(record.tokens),
        "wall time": units.duration(record.wall_seconds),
        "data": str(record.data.get("fingerprint", "")),
        "hardware": pairs(record.hardware),
        "versions": pairs(record.versions),
        "code": pairs(record.git),
        "command": record.command,
    }
    told = "".join(f"<p>{html.escape(text)}</p>" for text in ran.sentences({(record.identity, record.seed): record}))
    shown = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items() if text)
    return f"<section><h2>The run</h2>{told}<dl>{shown}</dl></section>"


def _problems(problems: Sequence[str]) -> str:
    listed = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    return f"<section><h2>Files that are unreadable or inconsistent</h2><ul>{listed}</ul></section>" if listed else ""
