"""A study as one page: `report.html`, which needs no network, and the same numbers beside it as CSV and LaTeX."""

import html
import json
import os
import shlex

import pandas as pd

from analysis import plots, tables, units
from analysis.claims import judge
from analysis.runs import load
from analysis.style import CSS
from experiments.record import write_atomically

NAME = "report.html"

CAPTIONS = {
    "differences": "The difference to the baseline",
    "quality_cache": "Quality against memory",
    "curves": "Learning curves",
    "tuning": "Tuning",
}


def write_report(folder):
    """Write report.html, results.csv, runs.csv and results.tex into a study's folder; returns the report's path.

    Raises DataError where there is no study that can be read.
    """
    study = load(folder)
    return write(study, judge(study))


def write(study, judgement):
    """As `write_report`, of a StudyData and its Judgement."""
    raw = tables.results(study, judgement)
    path = study.folder / NAME
    write_atomically(study.folder / "results.csv", tables.csv(raw).encode())
    write_atomically(study.folder / "runs.csv", tables.csv(study.runs).encode())
    write_atomically(study.folder / "results.tex", tables.latex(raw).encode())
    write_atomically(path, page(study, judgement, raw).encode())
    return path


def page(study, judgement, raw):
    """The whole page as text."""
    figures = plots.figures(study, judgement)
    parts = [
        _answer(study, judgement),
        _results(judgement, raw),
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


def _answer(study, judgement):
    record = study.record
    scale = f", scale {record.scale}" if record.scale else ""
    seeds = units.times(len(record.seeds), "seed")
    where = f"{record.name}{scale} · {units.times(len(record.arms), 'arm')} × {seeds}"
    remarks = "".join(f"<li>{_code(text)}</li>" for text in judgement.remarks)
    return (
        f"<header><p class=where>{html.escape(where)}</p><h1>{html.escape(record.question)}</h1></header>"
        f"<section class=answer><p>{_code(judgement.answer)}</p><ul>{remarks}</ul></section>"
    )


def _code(text):
    """Escaped text with its `quoted` parts set as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _results(judgement, raw):
    metric, margin = html.escape(judgement.claim.metric), units.share(judgement.claim.margin)
    note = (
        f"Perplexity is exp of the mean of <code>{metric}</code> over the n finished seeds, with its 95 % t interval. "
        "The difference is to the first arm, paired by seed (same initial values, same batches), as a change of perplexity; "
        f"p is of a paired t test, Holm-corrected over arms. “No difference” means within ±{margin}, by two one-sided "
        "tests at 5 %, likewise corrected. Sizes are in powers of 1024, counts in powers of 1000."
    )
    return f"<section><h2>Results</h2><div class=scroll>{tables.results_html(raw)}</div><p class=note>{note}</p></section>"


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
        "<p class=note>All else is the same in every arm.</p></section>"
    )


def _provenance(study):
    """What was run, where, by which code; several values of one thing are all shown."""
    runs = list(study.records.values())
    rows = {
        "study": study.record.name,
        "scale": study.record.scale,
        "seeds": ", ".join(map(str, study.record.seeds)),
        "steps a run": _distinct(f"{run.steps:,}" for run in runs if run.status == "finished"),
        "tokens a run": _distinct(units.scaled(run.tokens) for run in runs if run.status == "finished"),
        "wall time": _wall(runs),
        "data": _distinct(_pairs(run.data) for run in runs),
        "hardware": _distinct(_pairs(run.hardware) for run in runs),
        "threads a run": _distinct(str(run.threads) for run in runs),
        "versions": _distinct(_pairs(run.versions) for run in runs),
        "code": _distinct(_pairs(run.git) for run in runs),
        "started": min((run.started for run in runs if run.started), default=None),
        "ended": max((run.ended for run in runs if run.ended), default=None),
    }
    shown = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in rows.items() if text)
    warning = ""
    if any(run.git.get("dirty") for run in runs):
        warning = "<p class=warning>Some runs were made by code with uncommitted changes.</p>"
    spec = html.escape(json.dumps(study.record.spec, indent=1, ensure_ascii=False))
    return (
        f"<section><h2>What was run</h2>{warning}<dl>{shown}</dl>"
        f"<details><summary>The study's spec</summary><pre>{spec}</pre></details></section>"
    )


def _distinct(texts):
    """The values that occur, most often only one, else each on its own line with its count."""
    counts = pd.Series([text for text in texts if text], dtype=object).value_counts()
    if len(counts) < 2:
        return next(iter(counts.index), None)
    return "\n".join(f"{text}  ({units.times(count, 'run')})" for text, count in counts.items())


def _pairs(data):
    return ", ".join(f"{key}: {tables.spelt(value)}" for key, value in data.items())


def _wall(runs):
    total = sum(run.wall_seconds for run in runs)
    return f"{units.duration(total)} in {units.times(len(runs), 'run')}" if runs else None


def _unfinished(study):
    """Every run and trial that did not finish, and every file that could not be used, with the reason."""
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
    listed = f"<h3>Files that could not be used as they are</h3><ul>{problems}</ul>" if problems else ""
    return f"<section><h2>Runs that did not finish</h2>{table or '<p>None.</p>'}{listed}</section>"


def _below(study, folder):
    return units.DASH if folder is None else os.path.relpath(folder, study.folder)


def _samples(study):
    """What one trained model an arm wrote, where its record has it."""
    found = {}
    for (arm, seed), run in study.records.items():
        if run.sample:
            found.setdefault(arm, (seed, run.sample))
    texts = "".join(
        f"<h3>{html.escape(arm)}, seed {seed}</h3><pre>{html.escape(text)}</pre>" for arm, (seed, text) in found.items()
    )
    return f"<section><h2>What the models write</h2>{texts}</section>" if texts else ""


def _notes(study):
    """What runs said of themselves, e.g. that a faster path declined, each once with the number of runs."""
    notes = [note for run in study.records.values() for note in dict.fromkeys(run.notes)]
    counts = pd.Series(notes, dtype=object).value_counts()
    items = "".join(f"<li>{html.escape(note)} ({units.times(count, 'run')})</li>" for note, count in counts.items())
    return f"<section><h2>Notes of the runs</h2><ul>{items}</ul></section>" if items else ""


def _again(study):
    folder = shlex.quote(str(study.folder))
    commands = [
        ("Look closer", f"python -m analysis tensorboard {folder}"),
        ("Run again (finished runs are reused)", study.record.command),
        ("Make this report again", f"python -m analysis report {folder}"),
    ]
    items = "".join(f"<dt>{name}</dt><dd><code>{html.escape(text)}</code></dd>" for name, text in commands if text)
    beside = (
        "Beside this page: <code>results.csv</code> (an arm a row), <code>runs.csv</code> (a run a row), <code>results.tex</code>."
    )
    return f"<section><h2>Look closer, run again</h2><dl>{items}</dl><p class=note>{beside}</p></section>"
