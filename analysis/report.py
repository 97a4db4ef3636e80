"""The report of a study: one self-contained page, `report.html`, and the same numbers as CSV and LaTeX beside it."""

import html
import json
import os
import shlex

import pandas as pd

from analysis import plots, tables
from analysis.claims import judgements, lines
from analysis.runs import load
from analysis.style import CSS
from arch import units
from arch.words import times
from experiments.files import write_atomically
from sweeps.claims.against_baseline import AgainstBaseline
from sweeps.folders import safe_name

NAME = "report.html"

CAPTIONS = {
    "differences": "Difference from the baseline",
    "quality_cache": "Quality against cache size",
    "curves": "Learning curves",
    "tuning": "Tuning",
}


def write_report(folder):
    """Write report.html, results.csv, runs.csv and results.tex into a study's folder; returns the report's path.

    Raises DataError if the folder has no readable study.
    """
    study = load(folder)
    return write(study, judgements(study))


def write(study, judged):
    """Like `write_report`, from a StudyData and its Judgements. The files of further claims have the claim's name."""
    path = study.folder / NAME
    raw = [tables.results(study, judgement) for judgement in judged]
    for i, (judgement, table) in enumerate(zip(judged, raw, strict=True)):
        stem = f"results-{safe_name(judgement.name)}" if i else "results"
        write_atomically(study.folder / f"{stem}.csv", tables.csv(table).encode())
        write_atomically(study.folder / f"{stem}.tex", tables.latex(table).encode())
    write_atomically(study.folder / "runs.csv", tables.frame_csv(study.runs).encode())
    write_atomically(path, page(study, judged, raw).encode())
    return path


def page(study, judged, raw):
    """The whole page as HTML text. The figures show the first claim."""
    figures = plots.figures(study, judged[0])
    parts = [
        _answer(study, judged, [text for table in raw for text in table.for_texts.sentences]),
        *(_results(judgement, table, len(judged) > 1) for judgement, table in zip(judged, raw, strict=True)),
        *(_figure(name, figures[name], study) for name in CAPTIONS if name in figures),
        _differences(study),
        _provenance(study),
        _unfinished(study),
        _samples(study),
        _notes(study),
        _again(study),
    ]
    title = html.escape(study.record.question)
    return (
        f"<!doctype html>\n<html lang=en>\n<head><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><style>{CSS}</style></head>\n"
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body>\n</html>\n"
    )


def _answer(study, judged, of_texts):
    """The answer and what qualifies it. of_texts: the sentences on other texts."""
    record = study.record
    scale = f", scale {record.scale}" if record.scale else ""
    seeds = times(len(record.seeds), "seed")
    where = f"{record.name}{scale} · {times(len(record.arms), 'arm')} × {seeds}"
    answer, *others = lines(judged)
    remarks = "".join(f"<li>{_code(text)}</li>" for text in dict.fromkeys([*others, *of_texts]))
    return (
        f"<header><p class=where>{html.escape(where)}</p><h1>{html.escape(record.question)}</h1></header>"
        f"<section class=answer><p>{_code(answer)}</p><ul>{remarks}</ul></section>"
    )


def _code(text):
    """Escaped text; parts in `backticks` become code elements."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _results(judgement, raw, named):
    """A claim's table and what its columns mean. named: whether the heading names the claim."""
    shown, metric = judgement.shown, f"<code>{html.escape(judgement.shown.name)}</code>"
    quantity = html.escape(shown.quantity)
    mean = {"log": f"exp of the mean of {metric}" if shown.metric.exponential else f"the mean of {metric}"}
    mean |= {"ratio": f"the geometric mean of {metric}", "difference": f"the mean of {metric}"}
    change = f"change in {quantity} relative to" if shown.relative else f"{quantity} minus that of"
    note = (
        f"{quantity[0].upper()}{quantity[1:]} is {mean[shown.metric.compare]} over the n finished seeds, with a 95 % t "
        f"interval. The paired difference is the {change} the first arm, compared seed by seed (same initial values, same "
        "batches). "
    )
    if isinstance(judgement.claim, AgainstBaseline):
        note += (
            "p is the p value of a paired t test, Holm-corrected over the arms. “No difference” means within "
            f"±{html.escape(shown.margin(judgement.margin))}, shown by two one-sided tests at 5 % with the same correction. "
        )
    if raw.for_texts.effects:
        note += "“For texts like these” takes the documents as a sample too, as the seeds: an interval for other texts. "
    note += "1 kB is 1,000 bytes."
    heading = f"Results: {html.escape(judgement.name)}" if named else "Results"
    return f"<section><h2>{heading}</h2><div class=scroll>{tables.results_html(raw)}</div><p class=note>{note}</p></section>"


def _figure(name, figure, study):
    drawn = plots.svg(figure, name)
    inks = {"ink": plots.INK, "muted": plots.MUTED, "grid": plots.GRID, "paper": plots.PAPER}
    for variable, colour in (inks | {f"arm{i}": colour for i, colour in enumerate(plots.COLOURS, 1)}).items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    edges = ""
    if name == "tuning" and study.record.edges:
        edges = "".join(f"<p class=warning>{html.escape(edge)}</p>" for edge in study.record.edges)
    caption = html.escape(CAPTIONS[name])
    return f"<section><h2>{caption}</h2>{edges}<figure role=img aria-label='{caption}'>{drawn}</figure></section>"


def _differences(study):
    frame = tables.changes(study)
    if frame.empty:
        return ""
    return (
        "<section><h2>How the specs differ</h2><div class=scroll>"
        f"{tables.plain_html(frame).replace('<table>', '<table class=specs>')}</div>"
        "<p class=note>Everything else is the same in every arm.</p></section>"
    )


def _provenance(study):
    """What was run, where and with which code. If runs differ in a value, all its values are shown."""
    runs = list(study.records.values())
    rows = {
        "study": study.record.name,
        "scale": study.record.scale,
        "seeds": ", ".join(map(str, study.record.seeds)),
        "steps per run": _distinct(f"{run.steps:,}" for run in runs if run.status == "finished"),
        "tokens per run": _distinct(units.count(run.tokens) for run in runs if run.status == "finished"),
        "wall time": _wall(runs),
        "data": _distinct(_pairs(run.data) for run in runs),
        "hardware": _distinct(_pairs(run.hardware) for run in runs),
        "threads per run": _distinct(str(run.threads) for run in runs),
        "versions": _distinct(_pairs(run.versions) for run in runs),
        "code": _distinct(_pairs(run.git) for run in runs),
        "started": min((run.started for run in runs if run.started), default=None),
        "ended": max((run.ended for run in runs if run.ended), default=None),
    }
    shown = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in rows.items() if text)
    warning = ""
    if any(run.git.get("dirty") for run in runs):
        warning = "<p class=warning>Some runs used code with uncommitted changes.</p>"
    spec = html.escape(json.dumps(study.record.spec, indent=1, ensure_ascii=False))
    return (
        f"<section><h2>What was run</h2>{warning}<dl>{shown}</dl>"
        f"<details><summary>The study's spec</summary><pre>{spec}</pre></details></section>"
    )


def _distinct(texts):
    """The value if all agree; else each distinct value on its own line with its count; None if there is none."""
    counts = pd.Series([text for text in texts if text], dtype=object).value_counts()
    if len(counts) < 2:
        return next(iter(counts.index), None)
    return "\n".join(f"{text}  ({times(count, 'run')})" for text, count in counts.items())


def _pairs(data):
    return ", ".join(f"{key}: {tables.spelt(value)}" for key, value in data.items())


def _wall(runs):
    total = sum(run.wall_seconds for run in runs)
    return f"{units.duration(total)} in {times(len(runs), 'run')}" if runs else None


def _unfinished(study):
    """Every run and trial that did not finish, and every file with a problem, with the reason."""
    others = study.runs[study.runs.status != "finished"]
    trials = [trial for trial in study.record.trials if trial.state != "finished"]
    rows = [
        {"run": f"{row.arm}, seed {row.seed}", "status": row.status, "why": row.failure, "folder": _below(study, row.folder)}
        for row in others.itertuples()
    ]
    for trial in trials:
        values = _pairs(trial.values)
        name = f"{trial.arm}, trial {values}, seed {trial.seed}"
        rows.append({"run": name, "status": trial.state, "why": "", "folder": trial.run})
    problems = "".join(f"<li>{html.escape(problem)}</li>" for problem in study.problems)
    if not rows and not problems:
        return ""
    table = f"<div class=scroll>{tables.plain_html(pd.DataFrame(rows), index=False)}</div>" if rows else ""
    listed = f"<h3>Files that are missing, unreadable or inconsistent</h3><ul>{problems}</ul>" if problems else ""
    return f"<section><h2>Runs that did not finish</h2>{table or '<p>None.</p>'}{listed}</section>"


def _below(study, folder):
    return units.DASH if folder is None else os.path.relpath(folder, study.folder)


def _samples(study):
    """The text sample of one trained model per arm, if its record has one."""
    found: dict[str, tuple[int, str]] = {}
    for (arm, seed), run in study.records.items():
        if run.sample:
            found.setdefault(arm, (seed, run.sample))
    texts = "".join(
        f"<h3>{html.escape(arm)}, seed {seed}</h3><pre>{html.escape(text)}</pre>" for arm, (seed, text) in found.items()
    )
    return f"<section><h2>Text samples from the models</h2>{texts}</section>" if texts else ""


def _notes(study):
    """The notes in the runs' records, e.g. that a faster path was not used; each once, with the number of runs."""
    notes = [note for run in study.records.values() for note in dict.fromkeys(run.notes)]
    counts = pd.Series(notes, dtype=object).value_counts()
    items = "".join(f"<li>{html.escape(note)} ({times(count, 'run')})</li>" for note, count in counts.items())
    return f"<section><h2>Notes from the runs</h2><ul>{items}</ul></section>" if items else ""


def _again(study):
    folder = shlex.quote(str(study.folder))
    commands = [
        ("Open in TensorBoard", f"archbench tensorboard {folder}"),
        ("Run again (finished runs are reused)", study.record.command),
        ("Write this report again", f"archbench report {folder}"),
    ]
    items = "".join(f"<dt>{name}</dt><dd><code>{html.escape(text)}</code></dd>" for name, text in commands if text)
    beside = (
        "In the same folder: <code>results.csv</code> (row per arm), <code>runs.csv</code> (row per run), <code>results.tex</code>."
    )
    return f"<section><h2>Commands and files</h2><dl>{items}</dl><p class=note>{beside}</p></section>"
