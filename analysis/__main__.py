"""`python -m analysis`: what a study found. Commands import pandas and matplotlib themselves, for a fast start."""

import arch.early  # isort: skip  # noqa: F401  # first: Ctrl-C is heard from here on

import errno
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from arch.cli import main, new_app
from arch.errors import DataError
from arch.terminal import terminal
from arch.words import visible
from experiments.files import write_atomically

app = new_app("What a study found: a report, a table, figures, TensorBoard. `performance` summarizes benchmark records.")
Format = StrEnum("Format", [(name, name) for name in ("csv", "parquet", "latex", "markdown", "wandb-offline", "mlflow")])


def _found(reference):
    """The folder of the study, run or checkpoint that is named, see `sweeps.places`; of several, each."""
    from sweeps import places

    return [places.find(each) for each in reference] if isinstance(reference, (list, tuple)) else places.find(reference)


Folder = Annotated[
    Path,
    typer.Argument(metavar="STUDY", callback=_found, help="A study that has begun: its folder, name in `study list`, or file."),
]
Out = Annotated[Path | None, typer.Option(help="Another folder to write into, such as where that one cannot be written.")]


@contextmanager
def _into(folder, out):
    """Context manager: `out`, which is made, for what is written there; None where it goes into the folder itself.

    Where nothing can be written, the error is a DataError.
    """
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        yield out
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST):
            raise
        other = "" if out else "; --out FOLDER writes elsewhere"
        raise DataError(f"{out or folder}: cannot be written ({error.strerror}){other}", key=None) from None


Watch = Annotated[bool, typer.Option("--watch", help="Follow a running study: again whenever it has changed, until Ctrl-C.")]
RELOAD = 20  # seconds after which the page of a watched study loads itself anew


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="STUDY|RUN", callback=_found, help="A study, run or checkpoint: its folder, name or file.")
    ],
    watch: Watch = False,
    to: Annotated[list[Format], typer.Option("--to", help="instead, export a study or a run in this format; repeatable")] = (),
    out: Out = None,
):
    """Write a study's report.html (self-contained) and its tables, or a run's or checkpoint's evaluations.html, into the folder.

    With --to, a study or a run is written for other programs instead, to local files in its folder's export/FORMAT; with --out
    there, in a folder per format if there are several.
    """
    if to:
        if watch:
            raise DataError("--watch follows the report; an export is written once: leave out one of --watch and --to", key=None)
        forms = list(dict.fromkeys(to))
        for form in forms:
            _exported(folder, form, out / form if out and len(forms) > 1 else out)
        return
    from analysis import run_report
    from sweeps.record import NAME

    if not (folder / NAME).is_file() and run_report.is_run(folder):
        with _into(folder, out):
            path, problems = run_report.write(folder, out)
        _warn(problems)
        print(path)
        return
    if watch:
        _watched(folder, out)
        return
    written(folder, out=out)


def _watched(folder, out):
    """Write a study's report anew whenever its records change; at Ctrl-C once more, as a page that stays as it is."""
    from analysis import watch
    from analysis.claims import judgements
    from analysis.report import write
    from analysis.runs import load

    def act(again=RELOAD):
        study = load(folder)
        return f"{watch.progress(study)}: {write(study, judgements(study), out, again)}"

    with _into(folder, out):
        watch.follow(folder, act)
        print(act(None))


def _exported(folder, form, out):
    """Write an export, and print where it is and what to do with it."""
    from analysis.exports.write import write

    with _into(out or folder, None):
        path, hint = write(folder, form, out)
    print(path)
    if hint:
        print(hint)


def written(folder, label="", out=None):
    """Write a study's report, print its sentences and, after `label`, the report's path. Raises DataError.

    out: the folder to write into, by default the study's.
    """
    from analysis import crowd, tables
    from analysis.claims import judgements, lines, tabled, tuning_warnings
    from analysis.report import write
    from analysis.runs import load

    study = load(folder)
    judged = judgements(study)
    with _into(folder, out):
        path = write(study, judged, out)
    answers = [line for line in lines(judged) if any(line.endswith(each.answer) for each in judged)]
    raw = [tables.results(study, each) for each in tabled(judged)]
    of_texts = [text for each in raw for text in each.for_texts.sentences]
    print(visible("\n".join([study.record.question, *answers, ""])))
    print(visible(tables.words_first(judged, raw, crowd.named(study, judged[0]))))
    for line in dict.fromkeys([*lines(judged), *of_texts, *tuning_warnings(study)]):
        if line not in answers:
            print(visible(line))
    _warn(study.problems)
    print(f"{label}{path}")


def indexed(runs, every=None):
    """Write RUNS/index.html, the list of all studies (`every` Entry, if they are known); returns its path. Raises OSError."""
    from analysis.index import write

    return write(runs, every)


@app.command()
def table(
    folders: Annotated[list[Path], typer.Argument(metavar="STUDY...", callback=_found, help="A study that has begun, or several.")],
    format: Literal["text", "csv", "latex", "markdown"] = "text",
    trials: Annotated[bool, typer.Option("--trials", help="the trials of the study's search instead")] = False,
    metric: Annotated[str | None, typer.Option(help="of several studies: SPLIT/METRIC, by default that of the first claim")] = None,
):
    """Print the results table, or that of a search's trials; of several studies, one table of all their arms.

    Studies with other data, another metric or another tokenizer are not joined; the message says why.
    """
    from analysis import forms, search, tables
    from analysis.claims import judge
    from analysis.runs import load

    if len(folders) > 1:
        if trials:
            raise DataError("--trials is for one study", key=None)
        _joined(folders, format, metric)
        return
    study = load(folders[0])
    if trials:
        if (found := search.table(study)) is None:
            raise DataError(f"{folders[0]}: the study has no search, so it has no trials")
        print(search.text(study) if format == "text" else forms.any_frame(found, format), end="")
    elif metric is not None:
        _joined(folders, format, metric)
        return
    else:
        print(getattr(tables, format)(tables.results(study, judge(study))), end="")
    _warn(study.problems)


def _joined(folders, format, metric):
    """Print one table of the arms of some studies, in a metric."""
    from analysis import forms, joined
    from analysis.runs import load

    studies = [load(folder) for folder in folders]
    both = joined.joined(studies, metric)
    if format == "text":
        print(forms.text(both.readable.drop(columns="differs in")), end="")
        print(joined.NOTE)
    else:
        print(forms.any_frame(both.frame if format == "csv" else both.readable, format), end="")
    _warn(problem for study in studies for problem in study.problems)


@app.command()
def figures(folder: Folder, out: Out = None):
    """Write the report's figures as PNG files into STUDY_DIR/figures."""
    from analysis.claims import judgements
    from analysis.runs import load

    study = load(folder)
    for path in _figures(study, judgements(study), folder, out):
        print(path)


def _figures(study, judged, folder, out=None):
    """Write a study's figures as PNG files; yields their paths. judged: of all its claims."""
    from analysis import charts, crowd, drawing, plots, search_figures

    judgement = judged[0]
    few = crowd.few(study, judgement)
    drawn = plots.figures(study, judgement, judged) | search_figures.figures(study)
    measured, style = [each.only(few) for each in study.evaluated], crowd.looks(study, judgement)
    for name, figure in (drawn | charts.figures(measured, few, style)).items():
        with _into(folder, out):
            place = (out or folder) / "figures"
            place.mkdir(exist_ok=True)
            drawing.save(figure, place / f"{name}.png")
        yield place / f"{name}.png"


def kept(folder, into):
    """Write the report and the figures of a copy in the folder `into`, whose reports share one file; no tables of each run.

    Raises DataError.
    """
    from analysis import live
    from analysis.claims import judgements
    from analysis.report import write
    from analysis.runs import load

    study = load(folder)
    judged = judgements(study)
    with _into(folder, None):
        page = write(study, judged, rows=False)  # the records have these rows
        live.share(page, into)
        list(_figures(study, judged, folder))
        live.beside(page, folder / "figures")


def drawn(data, folder):
    """Draw the record of a coordinate check (`sweeps.coordinates.check`), a figure per rate; yields the files."""
    from analysis.coordinates import figure

    for i, rate in enumerate(data["rates"]):
        rows = [row for row in data["coordinates"] if f"{row['rate']:g}" == rate]
        made = figure(rows, f"Scale of activations at the rate {rate}")
        for ending in ("svg", "png"):
            path = folder / f"coordinates{f'-{i}' if i else ''}.{ending}"
            made.savefig(path, dpi=120, facecolor="white")
            yield path


@app.command()
def findings(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of all studies, such as `runs`.")] = Path("runs"),
    write: Annotated[Path | None, typer.Option(help="Write the page into this Markdown file; else it is printed.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --write: an error if the file says otherwise; writes nothing.")
    ] = False,
):
    """What all studies below a folder found: a row per claim, beside what a paper published, and a short page per study."""
    from analysis import findings as page

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", key=None)
    if check:
        if write is None:
            raise DataError("--check compares a file: add --write FILE", key=None)
        page.check(folder, write)
        return
    if write is None:
        print(page.page(folder))
        return
    with _into(folder, write.parent):
        write_atomically(write, page.page(folder, write.parent).encode())
    print(write)


def list_systems(runs):
    """Print the systems of the papers: what is built, proven, trained and judged, by the kept results and the studies in `runs`."""
    from analysis import systems
    from arch import document
    from sweeps import catalog

    folders = dict.fromkeys(Path(each).resolve() for each in (document.ROOT / "results", runs))
    every = [entry for folder in folders for entry in catalog.entries(folder)]
    terminal(highlight=False).print(systems.table(systems.standings(every)))


@app.command()
def performance(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD...", help="bench.json files or the folders that hold them.")],
    out: Annotated[Path, typer.Option(help="The Markdown file; its figure is written beside it.")] = Path("docs/performance.md"),
):
    """Write docs/performance.md from benchmark records: every target with its measured value."""
    from analysis.performance import write

    for path in write(records, out):
        print(path)


@app.command()
def tensorboard(
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 6006,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the logs and print their folder; start nothing.")] = False,
    watch: Watch = False,
    out: Out = None,
):
    """Start TensorBoard for a study: curves, HParams with every run, margin charts, the report's figures."""
    from analysis.tensorboard import serve, write_logs

    with _into(folder, out):
        if write_only:
            print(write_logs(folder, out))
            return
        code = serve(folder, port, out, watch)
    if code:
        raise typer.Exit(1)


def _warn(problems):
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)


if __name__ == "__main__":
    main(app, "python -m analysis")
