"""`python -m sweeps COMMAND`: the commands of `archbench study`."""

import arch.early  # isort: skip  # noqa: F401  # first: Ctrl-C is heard from here on

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from arch import cli
from arch.errors import DataError, SpecError
from arch.terminal import terminal

app = cli.new_app("Studies: plan, cost, run and follow ablations.")

Study = Annotated[
    str,
    typer.Argument(help="a shipped study (see `list`), a YAML file, or the folder or name of one that began", metavar="STUDY"),
]
Scale = Annotated[str | None, typer.Option(help="a scale of the study (default: `demo`, if the study has it)")]
Runs = Annotated[Path, typer.Option(help="the folder that holds the runs of all studies")]
RUNS = Path("runs")
Workers = Annotated[int | None, typer.Option(min=1, help="worker processes (default: as many as the cores allow)")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="the queue shared with other drivers: journal:PATH, or postgresql+psycopg://USER@HOST/DATABASE; by default "
        "$ARCHBENCH_STORAGE (docs/scale.md)"
    ),
]
Again = Annotated[bool, typer.Option("--again", help="with a storage: try again what failed or was lost before")]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a dotted key, e.g. train.steps=50; last, after the scale")
]
Seeds = Annotated[int | None, typer.Option(min=1, max=1000, help="the number of seeds, in place of the study's `seeds`")]
Name = Annotated[
    str | None, typer.Option(help="the study's name and folder; by default the file's name, with the overrides if there are some")
]
Begun = Annotated[str, typer.Argument(metavar="STUDY", help="a study that has begun: its folder, name in `study list`, or file")]
Studies = Annotated[list[str], typer.Argument(metavar="STUDY...", help="such studies: folders, names in `study list`, or files")]
State = StrEnum("State", [(name, name) for name in ("finished", "running", "stopped", "failed", "damaged")])
Yes = Annotated[bool, typer.Option("--yes", help="without a question")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what it would do")]
PairedSd = Annotated[float | None, typer.Option(min=1e-9, help="spread over seeds of an arm's difference (0.012: 1.2 %)")]


@app.command("list")
def list_studies(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="only studies in which each of these occurs")
    ] = None,
    state: Annotated[
        list[State],
        typer.Option(help="only your studies in this state; repeatable"),
    ] = (),
    sort: Annotated[Literal["last", "name", "disk", "state", "verdict"], typer.Option(help="the order of your studies")] = "last",
    archived: Annotated[bool, typer.Option("--archived", help="with those that are archived")] = False,
    json: Annotated[bool, typer.Option("--json", help="your studies as JSON")] = False,
    runs: Runs = RUNS,
):
    """List your studies with what came of each, then the shipped ones. The same is written to RUNS/index.html."""
    from sweeps import catalog, listing

    every = catalog.entries(runs)
    kept = [each for each in every if archived or not each.marks.archived]
    shown = catalog.chosen(kept, words or (), state, sort)
    if json:
        import json as to_json

        print(to_json.dumps([each.dump() for each in shown], indent=1))
        return
    listing.printed(shown, every, runs, terminal())
    if every and (path := _indexed(runs, every)):
        print(f"all of them, with links to the reports: {path}")
    if not state:
        listing.shipped(words or (), every)


def list_shipped():
    """List the claims with their options, and the shipped studies."""
    from arch.show import components
    from sweeps import listing

    console = terminal(highlight=False)
    for shown in components("sweeps"):
        console.print(shown)
    listing.shipped(())


@app.command()
def archive(
    studies: Studies,
    undo: Annotated[bool, typer.Option("--undo", help="list them again")] = False,
    runs: Runs = RUNS,
):
    """Leave studies out of lists. Nothing is removed, and their runs are still reused."""
    from sweeps import places
    from sweeps.marks import Marks

    for folder in [places.study(each, runs) for each in studies]:
        Marks.read(folder).model_copy(update={"archived": not undo}).write(folder)
        print(f"{folder}: {'listed again' if undo else 'archived'}")
    _indexed(runs)


@app.command()
def note(
    study: Begun,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="what to remember; without it, notes are printed")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="remove the notes that there are")] = False,
    runs: Runs = RUNS,
):
    """Write a note beside a study, which lists and RUNS/index.html show; or print its notes."""
    from sweeps import places
    from sweeps.marks import Marks

    if text is not None and not text.strip():
        raise SpecError("the note is empty; `--clear` removes the notes that there are, and without a text they are printed")
    folder = places.study(study, runs)
    marks = Marks.read(folder)
    if clear:
        marks = marks.model_copy(update={"notes": []})
    if text is not None:
        marks = marks.noted(text)
    if clear or text is not None:
        marks.write(folder)
        _indexed(runs)
    for each in marks.notes:
        print(f"{each.time}  {each.text}")


@app.command()
def keep(
    studies: Studies,
    into: Annotated[Path, typer.Option(help="the folder that gets STUDY/SCALE")] = Path("results"),
    every: Annotated[int, typer.Option(min=1, help="of a curve, every so many steps")] = 10,
    runs: Runs = RUNS,
):
    """Copy what verdicts rest on, without weights, into a folder small enough for a repository; with report and figures."""
    from analysis.__main__ import kept  # as for a report, only the command imports it
    from arch import units
    from sweeps import catalog, keeping, places

    for folder in [places.study(each, runs) for each in studies]:
        copy = keeping.keep(folder, into, every)
        kept(copy, into)
        print(f"{copy}: {units.size(catalog.size(copy))}")


@app.command()
def rm(
    studies: Studies,
    yes: Yes = False,
    dry_run: DryRun = False,
    runs: Runs = RUNS,
):
    """Remove studies with their runs and reports. Runs that another study uses stay."""
    from arch import units
    from sweeps import catalog, places, removal

    folders = [places.study(each, runs) for each in studies]
    for folder in folders:
        about = catalog.entry(folder, runs)
        print(f"{folder}: {about.progress}, {units.size(about.disk)}: {about.question}")
    taken = removal.of_studies(folders, runs)
    for sentence in taken.sentences:
        print(sentence)
    return _removed([taken.waste], f"remove {units.size(taken.waste.bytes)}", yes, dry_run, runs)


@app.command()
def gc(
    runs: Runs = RUNS,
    days: Annotated[float, typer.Option(min=0, help="what of the cache counts as unused; 0: all of it")] = 30,
    yes: Yes = False,
    dry_run: DryRun = False,
):
    """Free what nothing needs: runs that no study refers to, checkpoints of runs that have ended, unused parts of the cache."""
    from arch import units
    from sweeps import listing, removal

    parts, sentences = removal.collectable(runs, days)
    for line in [*listing.wasted(parts), *sentences]:
        print(line)
    if not parts:
        print("nothing to free")
        return 0
    return _removed(parts, f"free {units.size(sum(part.bytes for part in parts))}", yes, dry_run, runs)


def _removed(parts, what, yes, dry_run, runs):
    """Ask, remove and say what came of it; returns the exit code."""
    from sweeps import removal

    if dry_run:
        print(f"would {what}; nothing is removed")
        return 0
    if not yes:
        try:
            answer = input(f"{what}? [y/N] ")
        except EOFError:
            raise SpecError("nobody answers here; expected --yes or --dry-run") from None
        if answer.strip().casefold() not in ("y", "yes"):
            print("nothing is removed")
            return 1
    problems = removal.remove(parts, runs)
    for problem in problems:
        print(problem, file=sys.stderr)
    _indexed(runs)
    print("done" if not problems else "not all of it was removed")
    return 1 if problems else 0


def _indexed(runs, every=None):
    """Write RUNS/index.html; returns its path, or None where the folder cannot be written."""
    from analysis.__main__ import indexed  # as for a report, only the command imports it

    try:
        return indexed(runs, every)
    except OSError as error:
        print(f"no index.html in {runs}: {error.strerror or error}", file=sys.stderr)
        return None


@app.command()
def show(
    study: Study,
    scale: Scale = None,
    json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    runs: Runs = RUNS,
    paired_sd: PairedSd = None,
    changes: Changes = (),
    seeds: Seeds = None,
    name: Name = None,
):
    """Show every arm and run of a study, what each would cost, and what its seeds can find, before anything runs."""
    from sweeps import duration
    from sweeps import show as shown
    from sweeps.overrides import selected

    chosen = selected(study, scale, changes, seeds, name, runs)
    runs = chosen.below(runs)
    spec, arms = _checked(chosen, runs)
    data = shown.preview(chosen.name, chosen.scale, spec, arms, runs, paired_sd)
    data["remarks"] = [*chosen.remarks(spec), *data["remarks"]]
    if json:
        import json as to_json

        print(to_json.dumps(data, indent=1))
    else:
        shown.printed(data, terminal(), duration.estimate(data, arms))


@app.command()
def run(
    study: Study,
    scale: Scale = None,
    workers: Workers = None,
    runs: Runs = RUNS,
    storage: Storage = None,
    again: Again = False,
    changes: Changes = (),
    seeds: Seeds = None,
    name: Name = None,
):
    """Run what is missing of a study, then write its report. After an interruption, the same command resumes."""
    from sweeps.overrides import selected

    result = _driven("run", selected(study, scale, changes, seeds, name, runs), workers, runs, storage, again)
    if result is None:
        return 1
    return 0 if _report(result.study.folder) and _finished(result) else 1


@app.command()
def work(
    study: Study,
    scale: Scale = None,
    workers: Workers = None,
    runs: Runs = RUNS,
    storage: Storage = None,
    again: Again = False,
    changes: Changes = (),
    seeds: Seeds = None,
    name: Name = None,
):
    """Work on a study together with every other process that does so, here or on other machines, until nothing is left to do.

    Start it any number of times; all of them need the same storage and the same folder of runs. It writes no report.
    """
    from sweeps import storage as storages
    from sweeps.overrides import selected

    if not storages.chosen(storage):
        raise SpecError(f"several drivers need a storage: --storage or ${storages.VARIABLE}: {storages.FORMS}")
    result = _driven("work", selected(study, scale, changes, seeds, name, runs), workers, runs, storage, again)
    if result is None:
        return 1
    print(f"report: archbench report {result.study.folder}")
    return 0 if _finished(result) else 1


def _driven(word, chosen, workers, runs, storage, again):
    """The Result of a study after running what is missing; None if its folder cannot be written. word: of the command."""
    from sweeps import leases, settled
    from sweeps import storage as storages

    url = storages.chosen(storage)
    if url:
        leases.Terms.of_environment()  # what is wrong with it is said before anything is written
    if again and not url:
        raise SpecError("expected a storage; without one, every start tries again what failed", file="--again")
    console, runs = terminal(), chosen.below(runs)
    said = lambda text: console.print(text, highlight=False, markup=False)  # noqa: E731
    spec, arms = _checked(chosen, runs, said)
    if url:
        storages.close(storages.opened(url, make=False))  # what is wrong with it is said before data is read
    from sweeps import study as studies
    from sweeps.run import run_study

    further = [*(["--runs", str(runs)] if runs != RUNS else []), *storages.words(storage)]
    command = chosen.command(word, further)
    for remark in chosen.remarks(spec):
        said(f"warning: {remark}")
    planned = studies.plan(chosen.name, chosen.scale, spec, arms, runs, command, chosen.origin)
    try:
        if (became := next((arm.precision for arm in arms if arm.precision), "")) and settled.keep(
            planned.folder, became
        ) != became:
            return _driven(word, chosen, workers, runs, storage, again)  # another driver began meanwhile
        return run_study(planned, workers, console, storage=url and partial(storages.opened, url), again=again)
    except storages.away() as error:
        reason = storages.why_away(error) if not isinstance(error, OSError) else error
        print(f"cannot write the study in {planned.folder}: {reason}", file=sys.stderr)
        return None


def _finished(result):
    """Whether all runs are finished; names those that are not."""
    for outcome in result.outcomes:
        if outcome.status != "finished":
            print(f"{outcome.status}: {outcome.job.title}: {outcome.message} ({outcome.job.folder})", file=sys.stderr)
    return result.complete


@app.command()
def status(
    study: Study,
    scale: Scale = None,
    runs: Runs = RUNS,
    storage: Storage = None,
    changes: Changes = (),
    seeds: Seeds = None,
    name: Name = None,
):
    """Show which runs of a study are finished, failed or still to do, with their losses; with a storage also who works on what."""
    from sweeps import kinds, places
    from sweeps import status as stand
    from sweeps import storage as storages

    url = storages.chosen(storage)
    begun = None if changes or seeds or name or scale else places.begun(study, runs)
    try:
        chosen, folder, edited = _compared(study, scale, changes, seeds, name, runs)
    except (SpecError, DataError) as error:
        if begun is None or kinds.inside(begun) != "study":
            raise
        stand.printed(begun, terminal())  # what was run can be told without the file
        print(f"not compared with the study's file: {error}", file=sys.stderr)
        return
    if not stand.printed(folder, terminal(), edited) and (others := places.with_other_values(chosen.origin, runs)):
        print(others)
    if url:
        from sweeps import queue_status

        queue_status.printed(url, chosen.name, chosen.scale, terminal())


def _compared(study, scale, changes, seeds, name, runs):
    """(Selected, its folder, how its file was edited since it was run or None) of a study."""
    from sweeps import origin
    from sweeps.overrides import selected
    from sweeps.record import StudyRecord
    from sweeps.spec import split

    chosen = selected(study, scale, changes, seeds, name, runs)
    folder = chosen.folder(runs)
    origin.check(folder, chosen.name, chosen.scale, chosen.origin)
    if changes and not folder.is_dir():
        _checked(chosen, runs)  # a slip of the pen would look like a study that was never run
    edited = None
    if origin.is_edited(folder, chosen.origin, next(iter(split(chosen.root, chosen.scale)[0].arms))):
        from sweeps import edited as edits  # it imports torch, which a file that is as it was does not need

        edited = edits.since(folder, StudyRecord.read(folder), *_checked(chosen, runs))
    return chosen, folder, edited


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="a study: a shipped name, a YAML file, or a folder or name")],
    b: Annotated[str, typer.Argument(metavar="B", help="what to compare it with")],
    scale: Scale = None,
    runs: Runs = RUNS,
):
    """How two studies differ: in what they ask, in their arms, and in the resolved specs of the arms that both have."""
    from sweeps import differing

    for line in differing.differences(differing.side(a, scale, runs), differing.side(b, scale, runs)):
        print(line)


@app.command()
def dashboard(
    study: Study,
    scale: Scale = None,
    runs: Runs = RUNS,
    storage: Storage = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    changes: Changes = (),
    seeds: Seeds = None,
    name: Name = None,
):
    """Start optuna-dashboard on the trials of a study's search (extra `dashboard`)."""
    from sweeps import dashboard as board
    from sweeps import storage as storages
    from sweeps.overrides import selected

    board.serve(selected(study, scale, changes, seeds, name, runs).folder(runs), storages.chosen(storage), port)


@app.command()
def simulate(
    short: Annotated[bool, typer.Option("--short", help="few studies: a first look, in under a minute")] = False,
    studies: Annotated[int | None, typer.Option(min=10, help="simulated studies per number (default: 4000; --short: 60)")] = None,
    write: Annotated[bool, typer.Option("--write", help="write results/simulation.json and docs/statistics.md")] = False,
):
    """Simulate studies without training, judge them as real ones, and print how often the verdicts are wrong and right."""
    from arch.words import times
    from sweeps.simulation import record as records
    from sweeps.simulation import run as simulation

    studies = studies or (simulation.SHORT if short else simulation.STUDIES)
    words = ["archbench study simulate", *(["--studies", str(studies)] if studies != simulation.STUDIES else [])]
    done = simulation.record(" ".join(words), studies, told=_told)
    print(records.markdown(done))
    if write:
        records.rewrite(done, records.DOCUMENT)  # before the record: a document without its marks is an error
        done.write(records.FILE)
    for fault in done.faults:
        print(fault, file=sys.stderr)
    if done.faults:
        print(f"{times(len(done.faults), 'number')} not as expected", file=sys.stderr)
    return 1 if done.faults else 0


def _told(part):
    if sys.stderr.isatty():
        print(f"\r{part:.0%}", end="" if part < 1 else "\n", file=sys.stderr, flush=True)


@app.command("coordinate-check")
def coordinate_check(
    study: Annotated[str, typer.Argument(help="a study or an experiment: a shipped name, or a path", metavar="STUDY|EXPERIMENT")],
    scale: Scale = None,
    arm: Annotated[str | None, typer.Option(help="an arm of the study (default: the first)")] = None,
    widths: Annotated[str, typer.Option(help="values of model.dim, with heads and hidden units in proportion")] = "32,64,128",
    steps: Annotated[int, typer.Option(min=1, max=100, help="training steps at each width")] = 4,
    runs: Runs = RUNS,
):
    """Train a few steps at several widths: does the learning rate carry over? A table, a verdict, a record and a figure."""
    from analysis.__main__ import drawn  # as for a report, only the command imports it
    from sweeps import coordinates
    from sweeps.folders import safe_name, study_name
    from sweeps.scale import default_scale

    root = coordinates.document_of(study)
    chosen = scale or default_scale(root)
    label, written, spec = coordinates.arm_of(root, chosen, arm)
    numbers = coordinates.widths_of(widths)
    data = coordinates.check(written, spec, numbers, steps, lambda text: print(text, file=sys.stderr, flush=True))
    console = terminal()
    coordinates.printed(data, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True), console)
    name = "-".join(filter(None, [study_name(study), chosen, label]))
    folder = runs / "coordinate-check" / safe_name(name)
    try:
        paths = [coordinates.write(data, folder), *drawn(data, folder)]
    except OSError as error:
        print(f"cannot write {folder}: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, paths)))


@app.command()
def schema():
    """Print the JSON Schema of a study, for editors: the study's own keys and those of its base experiment."""
    import json

    from arch.schema import json_schema
    from experiments.spec import ExperimentSpec
    from sweeps.spec import StudySpec

    base, own = json_schema(ExperimentSpec), json_schema(StudySpec)
    merged = {**base, **own, **{key: base[key] | own[key] for key in ("properties", "$defs")}}
    print(json.dumps(merged, indent=2))


def _checked(chosen, runs=RUNS, measure=None):
    """(StudySpec, arms) of a Selected study after every check that needs no data.

    measure: told what happens while the steps of arms are timed, for a budget of seconds; None: none are timed.
    """
    from sweeps import origin
    from sweeps.spec import split

    root, scale = chosen.root, chosen.scale
    split(root, scale)  # Report errors in the study itself before the slow import of torch.
    from sweeps import budget, paces, settled
    from sweeps import study as studies

    precision = settled.kept(chosen.folder(runs))
    spec, arms = studies.check(root, scale, kept_precision=precision)
    if unmeasured := budget.unmeasured(spec, arms):
        folder = chosen.folder(runs)
        timed = [arm for arm in arms if arm.label in unmeasured]
        seconds = paces.known(folder, timed)
        missing = [arm for arm in timed if paces.key(arm) not in seconds]
        if measure and missing:
            origin.check(folder, chosen.name, scale, chosen.origin)
            seconds |= paces.measured(missing, measure)
        spec, arms = studies.check(root, scale, seconds, precision)
    return spec, arms


def _report(folder):
    """Write the study's report, print its sentences and return whether it succeeded.

    Only this command imports `analysis`, to show what came of the runs; the modules of `sweeps` never do.
    """
    from analysis.__main__ import written

    try:
        written(folder, "report: ")
        _indexed(folder.parent.parent)
        return True
    except (DataError, SpecError, OSError) as error:
        print(f"no report ({error}); try again: archbench report {folder}", file=sys.stderr)
        return False
    finally:
        print(f"curves in TensorBoard: archbench tensorboard {folder}")


if __name__ == "__main__":
    cli.main(app, "python -m sweeps")
