"""`python -m experiments`: one run from a spec, and what is known of it."""

import json
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from arch.cli import main, new_app

app = new_app("Train and measure one model. SPEC is a path ending in .yaml or the name of a shipped spec.")

Spec = Annotated[str, typer.Argument(help="path or name of an experiment spec")]
Runs = Annotated[Path, typer.Option(help="folder that holds all runs")]


@app.command("list")
def list_specs():
    """The experiments that come with Archbench, and the components they can use."""
    from arch import registry
    from arch.document import shipped

    for name in shipped("experiments"):
        print(name)
    for kind in ("source", "tokenizer", "objective"):
        print(f"{kind}s: {', '.join(registry.names(kind))}")


@app.command()
def show(spec: Spec):
    """The resolved experiment, every default filled in, as JSON."""
    from arch.document import load
    from experiments.plan import resolve

    print(json.dumps(resolve(load(spec, "experiments")).dump(), indent=1))


@app.command()
def run(spec: Spec, seed: Annotated[int, typer.Option(min=0)] = 0, runs: Runs = Path("runs")):
    """Train one run, or resume it, or say what it measured if it is finished."""
    from arch.document import load
    from experiments.plan import plan

    planned = plan(load(spec, "experiments"))
    from filelock import FileLock, Timeout

    from arch.errors import DataError
    from experiments import device
    from experiments.train import train

    device.setup(planned.spec.train.threads)
    folder = runs / "single" / Path(spec).stem / f"run-{planned.identity[:12]}" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0  # Lightning starts this command again for every further device
    lock = FileLock(folder / ".lock")
    try:
        if first:
            lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"another process trains in {folder}") from None
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.append(1))
    if first and planned.start:
        print(*planned.start.notes(), sep="\n")
    record = train(planned, seed, folder, progress=Bar() if first else None, stop=lambda: bool(asked))
    if not first:
        return
    print(f"\n{record.status}: {folder}")
    for name, value in record.metrics.items():
        print(f"  {name:24} {value:.4f}")
    if record.status == "interrupted":
        raise KeyboardInterrupt
    if record.status == "failed":
        print(f"  {record.failure.error} at step {record.failure.step}: {record.failure.message}")
        raise typer.Exit(1)


class Bar:
    """A progress bar of one run, on a terminal or not."""

    def __init__(self):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = "{task.fields[loss]}", "{task.fields[speed]}"
        self.bar = Progress(BarColumn(), *(TextColumn(text) for text in columns), TimeRemainingColumn())
        self.task = None

    def __call__(self, told):
        if self.task is None:
            self.bar.start()
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
    """Compare our models with others' code and published numbers, as a Markdown document; exits 1 where they differ."""
    from rich.console import Console

    from experiments.parity import table

    with Console(stderr=True).status("") as status:
        rows = list(table.rows(progress=lambda name: status.update(f"Comparing {name}")))
    text = table.document(rows)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    if "**differs**" in text:
        raise typer.Exit(1)


@app.command()
def schema():
    """The JSON Schema of an experiment spec, for editors."""
    from arch.schema import json_schema
    from experiments.spec import ExperimentSpec

    print(json.dumps(json_schema(ExperimentSpec), indent=1))


if __name__ == "__main__":
    main(app, "experiments")
