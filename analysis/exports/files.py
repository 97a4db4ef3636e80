"""Exports as plain files: CSV, Parquet, LaTeX and Markdown."""

from pathlib import Path

import pandas as pd

from analysis import bill, forms, measurements, search, tables
from analysis.claims import tabled
from analysis.conditions import rest
from analysis.exports.runs import Exported
from arch import units
from sweeps.folders import safe_names


def frames(exported: Exported) -> dict[str, pd.DataFrame]:
    """{name of a table: its rows, unrounded}: results and claims of a study, and runs, curves and what evaluators measured."""
    study = exported.study
    if study is None:
        rows = [{"arm": run.arm, "seed": run.record.seed, "status": run.record.status, **run.metrics} for run in exported.runs]
        curves = [run.curve.assign(arm=run.arm, seed=run.record.seed) for run in exported.runs if run.curve is not None]
        return {"runs": pd.DataFrame(rows), **({"curves": pd.concat(curves)} if curves else {})}
    found: dict[str, pd.DataFrame] = {}
    shown = tabled(exported.judged)
    names = safe_names(judgement.name for judgement in shown)
    for i, judgement in enumerate(shown):
        name = f"results-{names[judgement.name]}" if i else "results"
        found[name] = tables.results(study, judgement).frame
    found |= {"claims": tables.claims(exported.judged), "runs": study.runs, "curves": study.curves}
    if len(study.unreported):
        found["unreported"] = study.unreported.assign(values=study.unreported["values"].map(str))
    found |= measurements.frames(study.evaluated)
    if (trials := search.table(study)) is not None:
        found["trials"] = trials
    return {name: frame for name, frame in found.items() if len(frame.columns)}


def csv(exported: Exported, folder: Path) -> None:
    """A file per table."""
    for name, frame in frames(exported).items():
        (folder / f"{name}.csv").write_text(forms.csv(frame), encoding="utf-8")


def parquet(exported: Exported, folder: Path) -> None:
    """A file per table; columns of several types are text."""
    for name, frame in frames(exported).items():
        mixed = [column for column in frame if frame[column].dropna().map(type).nunique() > 1 and frame[column].dtype == object]
        frame.assign(**{str(column): frame[column].map(_text) for column in mixed}).to_parquet(
            folder / f"{name}.parquet", index=False
        )


def _text(value: object) -> str | None:
    return None if units.absent(value) else str(value)


def latex(exported: Exported, folder: Path) -> None:
    """A booktabs tabular per table for reading, and `tables.tex`, which shows them all."""
    shown = readable(exported)
    for name, (_, frame) in shown.items():
        (folder / f"{name}.tex").write_text(forms.any_frame(frame, "latex"), encoding="utf-8")
    parts = [rf"\section*{{{forms.escaped(title)}}}" "\n" rf"\input{{{name}}}" for name, (title, _) in shown.items()]
    head = "% pdflatex tables.tex\n\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage[landscape,margin=1cm]{geometry}\n"
    text = f"{head}\\begin{{document}}\\small\n{chr(10).join(parts)}\n\\end{{document}}\n"
    (folder / "tables.tex").write_text(text, encoding="utf-8")


def markdown(exported: Exported, folder: Path) -> None:
    """`report.md`: the question, the answer and what qualifies it, and every table for reading."""
    question, *said = exported.about or (exported.name,)
    parts = [f"# {_one_line(question)}", *map(_one_line, said[:1]), "\n".join(f"- {_one_line(text)}" for text in said[1:])]
    for title, frame in readable(exported).values():
        parts.append(f"## {title}\n\n{forms.any_frame(frame, 'markdown').rstrip()}")
    if exported.study is not None:
        sentences, _ = rest(exported.study)
        parts += ["## What else is the same", "\n".join(f"- {_one_line(text)}" for text in sentences)]
        if exported.study.record.command:
            parts.append(f"Run again: `{exported.study.record.command}`")
    (folder / "report.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def readable(exported: Exported) -> dict[str, tuple[str, pd.DataFrame]]:
    """{name: (title, a table whose cells are text)} of the tables that people read."""
    study = exported.study
    if study is None:
        run = exported.runs[0]
        rows = [{"metric": name, "value": units.number(value)} for name, value in run.metrics.items()]
        return {"metrics": (f"Metrics of {run.name}", pd.DataFrame(rows, columns=["metric", "value"]))}
    found: dict[str, tuple[str, pd.DataFrame]] = {}
    shown = tabled(exported.judged)
    names = safe_names(judgement.name for judgement in shown)
    for i, judgement in enumerate(shown):
        suffix, of = (f"-{names[judgement.name]}", f": {judgement.name}") if i else ("", "")
        raw = tables.results(study, judgement)
        found[f"results{suffix}"] = f"Results{of}", tables.readable(raw)
        if raw.comparisons is not None:
            found[f"comparisons{suffix}"] = f"Comparisons{of}", raw.comparisons
    stated = tables.claims([each for each in exported.judged if not each.per_arm])
    if len(stated):
        kept = [column for column in ("claim", "subject", "statement", "metric", "n", "p", "verdict", "source") if column in stated]
        found["claims"] = "Claims", stated[kept]
    changes = tables.changes(study)
    if len(changes):
        found["differences"] = "How the specs differ", changes.rename_axis("key").reset_index()
    found["cost"] = "What it cost", bill.readable(bill.bill(study)).reset_index()
    return {name: (title, frame.map(_cell)) for name, (title, frame) in found.items()}


def _cell(value: object) -> str:
    return units.DASH if units.absent(value) else f"{value:.4g}" if isinstance(value, float) else str(value)
