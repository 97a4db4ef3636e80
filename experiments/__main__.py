"""`python -m experiments`: train one run from a spec, compare with other implementations, measure speed and memory."""

import arch.early  # isort: skip  # noqa: F401  # first: Ctrl-C is heard from here on

import json
import shlex
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from arch.cli import main, new_app, warn
from arch.terminal import terminal

app = new_app("Train and measure one model. SPEC is a path ending in .yaml or the name of a shipped spec.")

Spec = Annotated[str, typer.Argument(help="path or name of an experiment spec")]
Runs = Annotated[Path, typer.Option(help="folder that holds all runs")]
RUNS = Path("runs")
Changes = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a dotted key, e.g. train.steps=50")]


@app.command("list")
def list_specs():
    """List the components of an experiment with their options and defaults, the shipped experiments and benchmarks."""
    from arch.document import shipped
    from arch.show import components

    console = terminal(highlight=False)
    for shown in components("experiments"):
        console.print(shown)
    console.print("specs: " + ", ".join(shipped("experiments")))
    console.print("benchmarks: " + ", ".join(shipped("bench")))


@app.command()
def show(spec: Spec, changes: Changes = ()):
    """Print the resolved experiment as JSON, with every default filled in."""
    from experiments import remarks
    from experiments.plan import resolved

    complete = resolved(document_of(spec, changes))
    print(json.dumps(complete.spec.dump(), indent=1))
    for note in complete.notes:
        print(note, file=sys.stderr)
    warn(remarks.of_experiment(complete.spec), file=sys.stderr)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="path or name of an experiment spec, or the folder of a run")],
    b: Annotated[str, typer.Argument(help="what to compare it with")],
):
    """How two experiments or runs differ once every default is filled in; of two runs, also in where and on what they ran."""
    from arch.show import differences
    from arch.spec import diff as compared
    from experiments.record import RunRecord

    (first, written_first), (second, written_second) = (_resolved(reference) for reference in (a, b))
    differences(first, second, written_first, written_second)
    if Path(a).is_dir() and Path(b).is_dir():
        one, other = (RunRecord.read(reference) for reference in (a, b))
        facts = [{"seed": str(record.seed), **record.facts} for record in (one, other)]
        for name, (before, after) in compared(*facts).items():
            print(f"{name}: {before} -> {after}")


def document_of(reference, changes=()):
    """The document of an experiment: of its spec, or of what the run in a folder ran; with the KEY=VALUE texts of `--set`."""
    from arch import document
    from arch.errors import DataError
    from experiments.record import RunRecord

    if not Path(reference).is_dir():
        return document.load(reference, "experiments", changes)
    record = RunRecord.read(reference)
    if record is None:
        raise DataError(f"{reference}: no record of a run in it", key=None)
    return document.overridden(document.node(record.spec), document.changes_of(changes))


def _resolved(reference):
    """(the whole resolved experiment, what was written of it) of a spec, or of the folder of a run. Raises SpecError, DataError."""
    from arch.errors import DataError, SpecError
    from experiments.plan import resolved, whole

    document = document_of(reference)
    try:
        complete = resolved(document)
    except SpecError as error:
        if not Path(reference).is_dir():
            raise
        raise DataError(f"{reference}: this release cannot read its spec: {error}", key=None) from None
    return whole(complete.spec), complete.written


@app.command()
def run(
    spec: Spec,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="the seed of the run (default: 0)")] = None,
    runs: Runs = RUNS,
    changes: Changes = (),
    seeds: Annotated[int | None, typer.Option(min=1, help="so many runs instead, one after another, with seeds from 0")] = None,
    name: Annotated[str | None, typer.Option(help="the name of the run's folder, in place of the spec's")] = None,
):
    """Train one run, or resume it. If it is finished already, print its metrics."""
    from arch.document import load
    from experiments.plan import plan
    from experiments.record import SINGLE

    document = load(spec, "experiments", changes)
    _refuse(seeds is not None and seed is not None, "give --seed for one run, or --seeds for several, not both")
    _refuse(name is not None and Path(name).name != name, f"--name {name}: expected the name of a folder, without `/`")
    planned = plan(document)
    from experiments import device, gpus, ranks, remarks
    from experiments.stopping import Stopping

    settings = planned.spec.train
    with ranks.at_its_line(document):
        ranks.check_started(settings)
        gpus.check_there(settings)
    device.setup(settings.threads)
    above = runs / SINGLE / (name or Path(spec).stem) / f"run-{planned.identity[:12]}"
    stopping = Stopping()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)
    if ranks.number(settings) == 0:
        already = remarks.of_experiment(planned.spec)
        warn(already)
        for note in planned.notes:
            if note not in already:
                print(note)
    chosen = [seed or 0] if seeds is None else list(range(seeds))
    statuses = []
    for each in chosen:
        command = _command(spec, each, runs, changes, name)
        statuses.append(_trained(planned, each, above / f"seed-{each}", command, stopping))
        if statuses[-1] == "interrupted":
            raise KeyboardInterrupt
    if "failed" in statuses:
        raise typer.Exit(1)


def _trained(planned, seed, folder, command, stopping):
    """Train one run in its folder and print what came of it; returns its status. command: the one that does it again."""
    from filelock import FileLock, Timeout

    from arch.errors import DataError
    from experiments import ranks
    from experiments.launch import RankLost
    from experiments.metrics import OF_RUNS
    from experiments.record import RunRecord
    from experiments.train import train

    folder.mkdir(parents=True, exist_ok=True)
    first = ranks.number(planned.spec.train) == 0  # torchrun or srun may have started this command once per device
    lock = FileLock(folder / ".lock")
    try:
        if first:
            lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"another process trains in {folder}") from None
    except OSError:  # a finished run is shown from a folder that cannot be written, too
        record = RunRecord.read_whole(folder)
        if record is None or (record.status, record.identity) != ("finished", planned.identity):
            raise
    bar = Bar() if first else None
    stopping.begun = lambda: bar is None or bar.started
    try:
        record = train(planned, seed, folder, progress=bar, stop=lambda: bool(stopping.asked))
    except RankLost as lost:
        print(f"{folder}: {lost}; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(1) from None
    if not first:
        return record.status
    stored = RunRecord.read_whole(folder)
    if stored is not None and not stored.command:  # a finished run keeps the command that made it
        with suppress(OSError):
            stored.model_copy(update={"command": command}).write(folder)
    lock.release()
    print(f"\n{record.status}: {folder}")
    values = {name: f"{value:.4f}" for name, value in record.metrics.items()}
    values |= {name: f"{value:,.0f} {OF_RUNS[name].unit}" for name, value in record.measured.items()}
    _values(values)
    if record.status == "failed":
        print(f"  {record.failure.reason}")
    return record.status


def _command(spec, seed, runs, changes, name):
    words = ["archbench", "run", spec, *(["--seed", str(seed)] if seed else [])]
    words += ["--runs", str(runs)] if runs != RUNS else []
    for text in changes:
        words += ["--set", text]
    return shlex.join([*words, *(["--name", name] if name else [])])


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run, or of a checkpoint")],
    spec: Annotated[str | None, typer.Argument(metavar="[SPEC]", help="spec whose `evaluate:` to use, not the run's")] = None,
    evaluators: Annotated[list[str], typer.Option("--with", metavar="NAME", help="an evaluator to use; repeatable")] = (),
    changes: Annotated[list[str], typer.Option("--set", metavar="NAME.OPTION=VALUE", help="an option of such an evaluator")] = (),
    split: Annotated[Literal["report", "select"], typer.Option(help="the split to measure on, for --with")] = "report",
    text: Annotated[list[str], typer.Option(help="of a checkpoint: text files to measure on (default: Python's library)")] = (),
    data: Annotated[str | None, typer.Option(help="of a checkpoint: an experiment's spec whose `data:` to use")] = None,
):
    """Do the evaluations that a finished run lacks, without training; then show all that were asked for.

    A checkpoint that is no run, such as an imported one, is measured with its own tokenizer on texts that are given.
    """
    from arch import units
    from experiments.record import evaluation_file

    measure = measuring_with(spec, evaluators, changes, split, text, data)
    for evaluation, measured, new in measure(run):
        print(f"{evaluation.key}: {evaluation.file}{' (new)' if new else ''}")
        _values({name: f"{units.cell(value)} {measured.metric_info[name].unit}" for name, value in measured.values.items()})
        _table(measured.table[:SHOWN])
        if len(measured.table) > SHOWN:
            print(f"  ... and {len(measured.table) - SHOWN:,} more rows in {evaluation_file(run, evaluation.file)}")
        if measured.text:
            print(f"  {measured.text!r}")


def measuring_with(spec=None, evaluators=(), changes=(), split="report", text=(), data=None):
    """A function that does what `evaluate` with these options asks for in a folder: see `_measured`. Raises SpecError."""
    from arch.errors import DataError
    from experiments import measuring
    from experiments.record import RunRecord

    section = _evaluate_section(spec, list(evaluators), list(changes), split)

    def measure(run):
        record = RunRecord.read_whole(run)
        if record is not None:
            _refuse(text or data, f"{run}: a finished run is measured on its own data; leave out --text and --data")
            return _measured(measuring.of_run(run, record, section), record.seed, run)
        if section is None:
            raise DataError(f"{run}: no finished run in it; for a checkpoint, say what to measure: --with NAME", key=None)
        return _measured(measuring.of_checkpoint(run, section, _data_section(data), list(text)), 0, run)

    return measure


def _refuse(wrong, reason):
    from arch.errors import SpecError

    if wrong:
        raise SpecError(reason)


def _evaluate_section(spec, evaluators, changes, split):
    """The section `evaluate` that the command asks for, or None: as the run's own spec says."""
    from arch.document import load
    from experiments import measuring

    _refuse(spec is not None and evaluators, "give a SPEC or --with NAME, not both")
    _refuse(changes and not evaluators, "--set changes an option of an evaluator: --with NAME --set NAME.OPTION=VALUE")
    if evaluators:
        return measuring.named(evaluators, changes, split)
    if spec is None:
        return None
    document = load(spec, "experiments")
    _refuse("evaluate" not in document.value, f"{spec}: it has no `evaluate:`")
    return document.value["evaluate"]


def _data_section(spec):
    """The section `data` of a spec, or None."""
    from arch.document import load

    if spec is None:
        return None
    document = load(spec, "experiments")
    _refuse("data" not in document.value, f"{spec}: it has no `data:`")
    return document.value["data"]


def _measured(plan, seed, folder):
    """Measure what a plan lacks: [(evaluation, its record, whether it is new)]. Exits with 1 where an evaluator fails by itself."""
    from arch import blame
    from arch.errors import DataError, SpecError
    from experiments import device, gpus
    from experiments.train import measure

    gpus.check_there(plan.spec.train)
    device.setup(plan.spec.train.threads)
    try:
        new = {f"{measured.split}.{measured.name}" for measured in measure(plan, seed, folder)}
    except (DataError, SpecError, OSError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:  # an evaluator's own
        place = blame.own_place(error)
        said = f"{blame.words(error)} was called" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        print(f"{said}{place and f' ({place})'}", file=sys.stderr)
        raise typer.Exit(1) from None
    return [(each, each.record(folder), each.key in new) for each in plan.evaluations]


def _values(texts):
    """Print one line per name and text, the texts below each other."""
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        print(f"  {name:{width}}  {text}".rstrip())


def _table(rows):
    """Print rows of a table in columns: those with the same columns together, as a block with a heading."""
    from arch import units

    blocks = {}
    for row in rows:
        filled = {key: units.cell(value) for key, value in row.items() if value is not None}
        blocks.setdefault(tuple(filled), []).append(filled)
    for columns, block in blocks.items():
        lines = [dict(zip(columns, columns, strict=True)), *block]
        widths = {key: max(len(line[key]) for line in lines) for key in columns}
        print()
        for line in lines:
            print("  " + "  ".join(f"{line[key]:>{widths[key]}}" for key in columns))


# Rows of a table that are printed; the file has all.
SHOWN = 24


class Bar:
    """The progress bar of one run."""

    def __init__(self):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = "{task.fields[loss]}", "{task.fields[speed]}"
        self.bar = Progress(BarColumn(), *(TextColumn(text) for text in columns), TimeRemainingColumn())
        self.task = self.preparing = None

    @property
    def started(self):
        """Whether the run has told of a step, or of what it does before the first."""
        return self.task is not None or self.preparing is not None

    def __call__(self, told):
        if "warning" in told:
            warn([told["warning"]])
            return
        if self.task is None:
            self.bar.start()
        if "preparing" in told:
            if self.preparing is None:
                self.preparing = self.bar.add_task("", total=told["total"], loss=told["preparing"], speed="")
            self.bar.update(self.preparing, completed=told["done"], total=told["total"])
            return
        if self.task is None:
            self.task = self.bar.add_task("", total=told["steps"], loss="", speed="")
        self.bar.update(
            self.task,
            completed=told["step"],
            loss=f"step {told['step']}/{told['steps']}  loss {told['loss']:.3f}",
            speed=f"{told['tokens_per_second']:,.0f} tokens/s",
        )
        if told["step"] == told["steps"]:
            self.bar.stop()


@app.command()
def parity(out: Annotated[Path | None, typer.Option(help="write the document there instead of printing it")] = None):
    """Compare our models with other code and published sizes, in Markdown; exit with 1 if anything differs."""
    from rich.console import Console

    from experiments.parity import table

    with Console(stderr=True, markup=False).status("") as status:
        rows = list(table.rows(progress=lambda name: status.update(f"Comparing {name}")))
    text = table.document(rows)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    if "**differs**" in text:
        raise typer.Exit(1)


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="model specs; they replace `specs`")] = (),
    spec: Annotated[
        str, typer.Option(help="path or shipped name of a benchmark's spec; `archbench list` ends with the shipped ones")
    ] = "",
    changes: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a key, e.g. contexts=[512]")] = (),
    against: Annotated[
        list[str],
        typer.Option(
            metavar="PEER",
            help="compare with this peer too, again for several: hf, hf-compiled, hf-compiled-autocast, x-transformers, llama.cpp, "
            "sentence-transformers",
        ),
    ] = (),
    out: Annotated[Path | None, typer.Option(help="folder for bench.json; by default a new folder in runs/bench")] = None,
):
    """Measure speed and memory of models, of single kernels and of the workbench itself.

    Results are compared with a peer and with this machine's ceilings. Compared sides are measured in alternating rounds
    of one run. If the benchmark is interrupted, it keeps the measurements it has. `archbench schema bench` lists the keys
    of a benchmark's spec.
    """
    from arch.document import Node, assignments, load, node, overridden

    root = load(spec, "bench") if spec else Node({})
    named = ({"specs": node(models)} if models else {}) | ({"against": node(list(against))} if against else {})
    root = overridden(root, Node(named))
    root = overridden(root, assignments(changes))

    from experiments.bench.record import NAME, BenchRecord
    from experiments.bench.spec import BenchSpec

    BenchSpec.parse(root)  # what is wrong with it is said before the slow import of torch and Lightning
    from experiments.bench.run import bench
    from experiments.bench.table import tables

    folder = out or Path("runs", "bench", datetime.now().strftime("%Y-%m-%d-%H%M%S"))
    try:
        record = bench(root, folder)
    except KeyboardInterrupt:
        record = BenchRecord.read(folder)
        if record is None:  # before anything was measured
            raise
    terminal(highlight=False).print(tables(record))
    print(f"{record.status}: {folder / NAME}")
    if record.status != "finished":
        raise SystemExit(130 if record.status == "interrupted" else 1)


@app.command()
def schema(kind: Annotated[Literal["experiment", "bench"], typer.Argument()] = "experiment"):
    """Print the JSON Schema of the specs of experiments or of benchmarks, for editors."""
    from arch.schema import json_schema
    from experiments.bench.spec import BenchSpec
    from experiments.spec import ExperimentSpec

    print(json.dumps(json_schema({"experiment": ExperimentSpec, "bench": BenchSpec}[kind]), indent=1))


if __name__ == "__main__":
    main(app, "python -m experiments")
