"""`archbench`: every command of the four packages under one name. The only file that may import them all.

`python -m arch`, `experiments`, `sweeps` and `analysis` have the same commands and stay.
"""

from arch import early  # isort: skip  # noqa: F401  # first: Ctrl-C is heard from here on

import functools
import inspect
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import analysis.__main__ as analysis
import arch.__main__ as arch
import experiments.__main__ as experiments
import sweeps.__main__ as sweeps
from arch.cli import main as end_with
from arch.cli import new_app, warn
from arch.errors import SpecError
from arch.terminal import terminal

app = new_app("What happens to quality, speed and memory of a language model if its architecture changes?")


def _version(asked: bool):
    if asked:
        from importlib.metadata import version

        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "optuna"))
        print(f"archbench {version('archbench')} ({packages}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")] = False,
):
    pass


study = new_app("Studies: several arms, several seeds, one question.")
app.add_typer(study, name="study")

MODELS, RUNS, RESULTS, WORKBENCH = "Models and checkpoints", "Training", "Results", "The workbench"


def _of(kind, command):
    """A command whose first argument is a spec of a kind. Another kind is refused with the command that is meant."""
    first = next(iter(inspect.signature(command).parameters))

    @functools.wraps(command)
    def checked(**options):
        from experiments.record import RunRecord
        from sweeps import kinds, places

        reference, runs = options[first], options.get("runs", sweeps.RUNS)
        if (other := _kind(reference, kind, runs)) != kind:
            raise _meant(reference, other, command)
        if kind == "experiment" and (folder := places.begun(reference, runs)):
            if again := RunRecord.read(folder).command:
                raise SpecError(f"this is a run, which this command made: {again}", file=reference)
            raise kinds.meant(reference, "run")
        return command(**options)

    return checked


def _meant(reference, kind, command):
    """The error about a spec of a kind that a command does not take."""
    from sweeps import kinds, places

    if command.__name__ == "show" or (kind == "experiment" and places.begun(reference)):
        return kinds.meant(reference, kind, "archbench show")
    return kinds.meant(reference, kind)


def _at(command, *held):
    """A command whose first argument is the folder of a run or a checkpoint: also by its place below the runs, or by its spec.

    held: what else of `kinds.INSIDE` it takes.
    """
    first = next(iter(inspect.signature(command).parameters))

    @functools.wraps(command)
    def placed(**options):
        from sweeps import kinds, places
        from sweeps.outcomes import finished_runs

        folder = places.find(options[first])
        if kinds.inside(folder) == "study" and "study" not in held:
            runs = [run for _, run in finished_runs(folder) or ()]
            example = f", such as {runs[0]}" if runs else "; it has none that is finished"
            raise SpecError(f"this is a study; expected one of its runs{example}", file=str(options[first]))
        return command(**options | {first: folder})

    return placed


@app.command(rich_help_panel=MODELS)
def show(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A path ending in .yaml, or a shipped name (see `list`).")],
    context: Annotated[int, typer.Option(help="Tokens at which a model's FLOPs, cache and activations are counted.")] = 8192,
    dtype: Annotated[str, typer.Option(help="Of a model: float32, bfloat16 or float16.")] = "float32",
    scale: Annotated[str | None, typer.Option(help="Of a study; by default `demo` where it has one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON, with exact numbers.")] = False,
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Of a study: the number of seeds.")] = None,
    name: Annotated[str | None, typer.Option(help="Of a study: its name.")] = None,
    quantise: Annotated[str | None, typer.Option(metavar="FORMAT", help=f"Of a model. {arch.QUANTISE}")] = None,
):
    """What a spec would cost before anything runs: a model, an experiment (with --json: whole), or a study, run by run."""
    from sweeps import kinds, places

    kind, changes = _kind(spec), changes or []
    for option, value in {"--seeds": seeds, "--name": name}.items():
        if value is not None and kind != "study":
            raise SpecError(f"expected a study, and {spec} is of the kind {kind}", file=option)
    if quantise is not None and kind != "model":
        raise SpecError(f"expected a model, and {spec} is of the kind {kind}; say --set model.quantise...", file="--quantise")
    if kind == "study":
        sweeps.show(spec, scale, as_json, changes=changes, seeds=seeds, name=name)
    elif kind == "experiment":
        _show_experiment(str(places.begun(spec) or spec), as_json, changes)
    elif kind == "model":
        arch.show(_model_file(str(places.begun(spec) or spec)), context, dtype, as_json, changes, quantise)
    else:
        raise kinds.meant(spec, kind)


@app.command(rich_help_panel=MODELS)
def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A model, experiment, run or study: a YAML file, a shipped name, a folder.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with, of the same kind.")],
    scale: Annotated[str | None, typer.Option(help="Of two studies; by default `demo` where they have one.")] = None,
):
    """How two models, experiments, runs or studies differ once every default is filled in.

    The folder of a run or of a study stands for what was run.
    """
    from sweeps import kinds, places

    first, second = (_kind(reference) for reference in (a, b))
    if first != second:
        raise SpecError(f"{a} is of the kind {first} and {b} of the kind {second}; expected two of one kind")
    if first == "study":
        sweeps.diff(a, b, scale)
        return
    a, b = (str(places.begun(reference) or reference) for reference in (a, b))
    if first == "experiment":
        experiments.diff(a, b)
    elif first == "model":
        arch.diff(_model_file(a), _model_file(b))
    else:
        raise kinds.meant(a, first)


def _model_file(reference):
    """The spec of a model: of a checkpoint's folder, the file in it."""
    return str(Path(reference) / "spec.yaml") if Path(reference).is_dir() else reference


@app.command("list", rich_help_panel=MODELS)
def list_(
    part: Annotated[
        Literal["systems", "models", "experiments", "studies"] | None, typer.Argument(help="Only this part; by default all.")
    ] = None,
):
    """What is there: the systems of the four papers, built, proven, trained and judged; every component with its options; and
    every shipped model, experiment and study.
    """
    parts = {
        "systems": lambda: analysis.list_systems(sweeps.RUNS),
        "models": arch.list_,
        "experiments": experiments.list_specs,
        "studies": sweeps.list_shipped,
    }
    for name, shown in parts.items():
        if part in (None, name):
            print(f"{name}:")
            shown()
            print()


app.command(rich_help_panel=MODELS)(arch.check)
app.command("import", rich_help_panel=MODELS)(arch.import_)
app.command(rich_help_panel=MODELS)(_at(arch.export))
app.command(rich_help_panel=MODELS)(_at(arch.generate))
app.command(rich_help_panel=MODELS)(_at(arch.encode))
app.command(rich_help_panel=RUNS)(_of("experiment", experiments.run))


@app.command(rich_help_panel=RUNS)
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN|STUDY|CHECKPOINT", help="The folder of one of these.")],
    spec: Annotated[str | None, typer.Argument(metavar="[SPEC]", help="A spec whose `evaluate:` to use, not the run's.")] = None,
    evaluators: Annotated[list[str] | None, typer.Option("--with", metavar="NAME", help="An evaluator; repeatable.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Its option.")] = None,
    split: Annotated[Literal["report", "select"], typer.Option(help="The split to measure on, for --with.")] = "report",
    text: Annotated[list[str] | None, typer.Option(help="Of a checkpoint: text files to measure on.")] = None,
    data: Annotated[str | None, typer.Option(help="Of a checkpoint: an experiment's spec whose `data:` to use.")] = None,
):
    """Measure a finished run, every finished run of a study, or a checkpoint, without training. What is there stays."""
    from sweeps import kinds, places

    folder = places.find(folder)
    options = spec, evaluators or [], changes or [], split, text or [], data
    if kinds.inside(folder) != "study":
        experiments.evaluate(folder, *options)
        return
    from sweeps.measured import of_study

    of_study(folder, experiments.measuring_with(*options), sweeps.terminal())


for command in (sweeps.run, sweeps.work, sweeps.show, sweeps.status, sweeps.dashboard):
    study.command()(_of("study", command))
study.command()(sweeps.simulate)
study.command("coordinate-check")(sweeps.coordinate_check)
study.command("list")(sweeps.list_studies)
study.command()(sweeps.diff)
study.command()(sweeps.archive)
study.command()(sweeps.note)
study.command()(sweeps.keep)
study.command()(sweeps.rm)
study.command()(sweeps.gc)
app.command(rich_help_panel=RESULTS)(analysis.report)
app.command(rich_help_panel=RESULTS)(analysis.tensorboard)
app.command(rich_help_panel=RESULTS)(analysis.table)
app.command(rich_help_panel=RESULTS)(analysis.figures)
app.command(rich_help_panel=RESULTS)(analysis.findings)


@app.command(rich_help_panel=WORKBENCH)
@functools.wraps(experiments.bench)
def bench(**options):
    from sweeps import kinds, places

    models = options.get("models") or ()
    for reference in models:
        if (kind := _kind(reference, "model")) != "model" and not places.begun(reference):
            raise kinds.meant(reference, kind)
    if options.get("spec") and (kind := kinds.of(options["spec"], "benchmark")) != "benchmark":
        raise kinds.meant(options["spec"], kind)
    places_of = [_model_file(str(places.begun(reference) or reference)) for reference in models]
    return experiments.bench(**options | {"models": places_of})


app.command(rich_help_panel=WORKBENCH)(experiments.parity)
app.command(rich_help_panel=WORKBENCH)(analysis.performance)


@app.command(rich_help_panel=WORKBENCH)
def schema(kind: Annotated[Literal["model", "experiment", "study", "bench"], typer.Argument()] = "study"):
    """The JSON Schema of a kind of spec, with which an editor completes and checks YAML."""
    if kind in ("experiment", "bench"):
        experiments.schema(kind)
    else:
        {"model": arch, "study": sweeps}[kind].schema()


@app.command(rich_help_panel=WORKBENCH)
def doctor():
    """What this machine is good for: cores, compiler, number formats, GPU, optional packages, caches."""
    from experiments import doctor

    for name, value in doctor.findings():
        print(f"{name:<13} {value}")


def _kind(reference, first=None, runs=sweeps.RUNS):
    """Whether a spec, or the spec of what lies in a folder, is a `study`, an `experiment`, a `model` or a `benchmark`.

    first: the kind that is looked up first. Raises SpecError where there is no such spec.
    """
    from sweeps import kinds, places

    if folder := places.begun(reference, runs):
        return {"study": "study", "run": "experiment", "checkpoint": "model"}[str(kinds.inside(folder))]
    return kinds.of(reference, first)


def _show_experiment(reference, as_json, changes):
    if as_json:
        experiments.show(reference, changes)
        return
    from experiments import image_costs, references, remarks
    from experiments.metrics import objective_costs
    from experiments.plan import at_its_line, probed, resolved

    document = experiments.document_of(reference, changes)
    spec = probed(resolved(document)).spec
    with at_its_line(document):
        used = references.referred(spec, {})
        added = references.costs(spec, None, used)

    from arch import cost, units
    from arch.show import costs

    summary = image_costs.with_images(cost.summary(spec.model, spec.data.context), spec)
    terminal(highlight=False).print(costs(spec.model, reference, summary))
    steps, rows, context = spec.train.steps, spec.data.rows, spec.data.context
    flops = summary["flops_per_token"]["executed"]["train"] * spec.tokens
    warn(remarks.of_experiment(spec))
    print(f"one run: {steps:,} steps x {rows} rows x {context} tokens = {spec.tokens:,} tokens, {units.flops(flops)} executed")
    if added:
        named = ", ".join(f"{option} {name.name}" for option, name in used.items())
        print(f"its objective{f' ({named})' if named else ''} adds: {objective_costs(added)}")


def main():
    """The installed command `archbench`. Components of your own are found in the working folder, as with `python -m`."""
    sys.path.insert(0, os.getcwd())
    resumes = sys.argv[1:2] == ["run"] or sys.argv[1:3] in (["study", "run"], ["study", "work"])
    end_with(app, "archbench", "interrupted; the same command resumes" if resumes else "interrupted")


if __name__ == "__main__":
    main()
