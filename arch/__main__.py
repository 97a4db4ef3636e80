"""`python -m arch`: list, cost and compare models; import, export, sample from and encode with checkpoints."""

import arch.early  # isort: skip  # noqa: F401  # first: Ctrl-C is heard from here on

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from arch.cli import main, new_app, warn
from arch.terminal import terminal

app = new_app("Models as specs and as checkpoints: list, cost, compare; import, export, generate, encode.")

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A path ending in .yaml, or a shipped name (see `list`).")]


QUANTISE = "Round the weights: q4_0, or by role, embedding=q8_0,attention=q8_0,matrix=q4_0 (`list` has the formats)."
GGUF_QUANTISE = "gguf: round the weights, q4_0 or q8_0, or by role, as `show` does; by default as the checkpoint was trained."


@app.command("list")
def list_():
    """List the components with their options and defaults, and the shipped specs."""
    from arch import document
    from arch.show import components

    console = terminal(highlight=False)
    for shown in components("arch"):
        console.print(shown)
    console.print("specs: " + ", ".join(document.shipped("arch")))


@app.command()
def show(
    spec: SpecArgument,
    context: Annotated[int, typer.Option(help="Context in tokens, for FLOPs, cache and activations.")] = 8192,
    dtype: Annotated[str, typer.Option(help="Type of weights, activations and cache: float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON, with exact numbers.")] = False,
    changes: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key, e.g. layers=4.")] = (),
    quantise: Annotated[str | None, typer.Option(metavar="FORMAT", help=QUANTISE)] = None,
):
    """Show what a model costs before any weight exists: parameters, FLOPs per token, cache, training memory.

    Of a model with quantised weights also its memory by format: weights packed, cache also in 8 bits, activations.
    """
    root, resolved = _load(spec, [*changes, *(f"quantise.{role}.type={name}" for role, name in _roles(quantise).items())])

    from arch import cost, packed, probe_model, remarks
    from arch.spec import digest

    cost.check_builds(resolved, root)
    probe_model.check_components(resolved, root, tokens=min(context, probe_model.TOKENS))
    summary, said = cost.summary(resolved, context, dtype), remarks.of_model(resolved, context)
    memory = None if resolved.quantise is None else packed.memory(resolved, context)
    if as_json:
        more = {} if memory is None else {"memory": memory}
        print(json.dumps({"spec": spec, "digest": digest(resolved), **summary, **more, "remarks": said}))
        return

    from arch.show import by_format, costs

    console = terminal(highlight=False)
    console.print(costs(resolved, spec, summary))
    if memory is not None:
        console.print(by_format(memory))
    warn(said)


@app.command()
def check(
    component: Annotated[str, typer.Argument(help="By name: `attention`, `quantiser/q4_0`, or one of your own, `my_mixers:Mine`.")],
    changes: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="An option, e.g. heads=4.")] = (),
    dim: Annotated[int, typer.Option(min=1, help="The model's width, as narrow as its options allow.")] = 64,
    context: Annotated[int, typer.Option(min=2, help="The longest row, in tokens.")] = 256,
):
    """Check that a mixer, ffn, pool, cross or quantiser does what it says: sees no later token, keeps documents apart, and so on.

    Without --set, every example of its Config is checked, or its defaults. Exit code 1: it does not.
    """
    from arch import checked

    report = checked.check(component, changes, dim, context)
    terminal(highlight=False).print(report)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def diff(a: SpecArgument, b: SpecArgument):
    """Show the keys in which two specs differ after every default is filled in."""
    from arch.model_spec import expand_like
    from arch.registry import whole_model
    from arch.show import differences

    (root_a, spec_a), (root_b, spec_b) = _load(a), _load(b)
    differences(whole_model(spec_a), whole_model(spec_b), expand_like(root_a).plain(), expand_like(root_b).plain())


Family = Annotated[
    str | None,
    typer.Option(help="Whose tensor names the checkpoint uses: a family, or your own by import path (docs/checkpoints.md)."),
]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A Hugging Face folder, or a weights file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to create.")],
    spec: Annotated[str | None, typer.Option(help="The model's spec; needed where no config.json describes it.")] = None,
    family: Family = None,
):
    """Convert a checkpoint to our format: spec.yaml, model.safetensors and, if there are some, the tokenizer and prompts."""
    from arch import hf

    with _bar(f"Importing {source}") as progress:
        found = hf.import_(source, out, spec, family, progress)
    print(f"{out}: {found.spec.layers} layers of {found.family}, {len(found.tensors.entries)} tensors")
    if found.modules:
        print(f"  {found.modules.shown()}")
    for note in found.notes:
        print(f"  {note}")
    if found.ignored:
        print(f"  left out, not part of the model: {', '.join(found.ignored[:3])}{_more(len(found.ignored) - 3)}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint in our format, such as a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to create; with `--format gguf` the file.")],
    format: Annotated[str, typer.Option(help="hf: a Hugging Face folder; gguf: a file for llama.cpp.")] = "hf",
    truncate_dim: Annotated[int | None, typer.Option(help="hf, of an encoder: how many numbers of a vector it gives.")] = None,
    quantise: Annotated[str | None, typer.Option(metavar="FORMAT", help=GGUF_QUANTISE)] = None,
    dtype: Annotated[str | None, typer.Option(help="gguf: of matrices that are not rounded; float32 by default.")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="gguf: tokens that the model reads; the checkpoint's, else 8192.")
    ] = None,
):
    """Write a checkpoint as a Hugging Face folder, if a class of `transformers` computes exactly this model.

    A model with a pool becomes a folder of sentence-transformers. With `--format gguf`: a file for llama.cpp.
    """
    given = {"--truncate-dim": truncate_dim, "--quantise": quantise, "--dtype": dtype, "--context": context}
    _check_format(format, {name for name, value in given.items() if value is not None})
    if format == "gguf":
        _export_gguf(checkpoint, out, quantise, dtype or "float32", context)
        return
    from arch import hf

    with _bar(f"Exporting {checkpoint}") as progress:
        architecture = hf.export(checkpoint, out, progress, truncate_dim)
    print(f"{out}: {architecture}")
    if truncate_dim is not None:
        print("  vectors are cut and not made of length 1 again, unless one asks for it (normalize_embeddings=True)")
    for what, release in hf.since(out).items():
        print(f"  needs transformers {release}: {what}")


def _check_format(format, given):
    """Raises DataError for a format of exports that does not exist, and for options that are of another one."""
    from arch.errors import DataError, nearest

    options = {"hf": {"--truncate-dim"}, "gguf": {"--quantise", "--dtype", "--context"}}
    if format not in options:
        raise DataError(f"--format: no format {format!r}{nearest(format, options)}", key=None)
    for name in sorted(given - options[format]):
        raise DataError(f"{name}: not of --format {format}, which has {', '.join(sorted(options[format]))}", key=None)


def _export_gguf(checkpoint, out, quantise, dtype, context):
    _dtype(dtype)
    from arch import units
    from arch.gguf.export import export

    with _bar(f"Exporting {checkpoint}") as progress:
        done = export(checkpoint, out, dtype, _roles(quantise), context, progress)
    sizes = ", ".join(f"{units.size(size)} in {kind}" for kind, size in done.kinds.items())
    print(f"{out}: {done.architecture}, {sizes}")
    for note in done.notes:
        print(f"  {note}")


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint in our format, or a Hugging Face folder.")],
    prompt: Annotated[str, typer.Option(help="The text to continue; - reads it from standard input. <image>: where a picture is.")],
    image: Annotated[list[Path], typer.Option(metavar="FILE", help="A picture; once for each <image> in the prompt.")] = [],  # noqa: B006
    pan_and_scan: Annotated[float | None, typer.Option(min=1, help="Also show crops from this ratio of the sides on.")] = None,
    min_crop: Annotated[
        int | None, typer.Option(min=1, help="With --pan-and-scan: the shortest side of a crop, in pixels; by default 256.")
    ] = None,
    most_crops: Annotated[int | None, typer.Option(min=2, help="With --pan-and-scan: crops of a picture; by default 4.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the checkpoint's chat template; the answer ends its turn.")] = False,
    system: Annotated[str, typer.Option(help="With --chat: a system prompt.")] = "",
    tokens: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Generate at most this many tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Sample among the likeliest tokens of this share.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default the checkpoint's.")] = None,
):
    """Sample text from a model and print it token by token. An encoder-decoder reads the prompt and writes what it is to give."""
    from arch.errors import DataError
    from arch.tokenizer import TextTokens

    text, said = TextTokens(checkpoint), sys.stdin.read() if prompt == "-" else prompt
    turns = _turns(text, checkpoint, bool(image)) if chat else None
    if system and not chat:
        raise DataError("--system: only a chat template has a place for it; expected --chat too", key=None)
    cut = _cut(pan_and_scan, min_crop, most_crops)
    pictures = _pictures(image, said, cut)

    from arch import hf
    from arch.generate import writing
    from arch.images import asked
    from arch.words import visible

    ids, shown = [], None
    if turns is not None and pictures:
        said = turns.written(said, system)
    if not pictures:
        ids = text.encode(said) if turns is None else turns.prompt(said, system)
    model = hf.load(checkpoint, dtype=_dtype(dtype))
    if pictures:
        ids, shown = asked.asked(model, text, said, pictures, cut)
    elif model.vision is not None:
        asked.check_places(ids, 0, model.vision.config)
    written = writing(model, ids, tokens, temperature, top_k, top_p, seed, shown, text.blind, text.begin)
    before = ids if model.encoder is None else [text.begin]
    for piece in text.stream(before, written):
        print(visible(piece) if sys.stdout.isatty() else piece, end="", flush=True)  # a terminal would obey what is no text
    print()


def _turns(text, folder, pictured):
    """The chat template of a folder, whose turns' end then ends what is written. Raises DataError.

    pictured: whether the prompt has images; their places are special tokens in its text.
    """
    from arch import chat_template
    from arch.chat import Chat
    from arch.tokenizer import Ends

    text.tokenizer.encode_special_tokens = not pictured  # else what is asked ends no turn
    turns = Chat(text.tokenizer, Ends(text.begin, text.end), chat_template.read(folder))
    text.ends |= turns.stops
    return turns


def _cut(ratio, min_crop, most):
    """The PanAndScan of the options; None where pictures are shown as they are. Raises DataError."""
    import math

    from arch.errors import DataError
    from arch.images.crops import PanAndScan

    options = {name: value for name, value in (("min_crop", min_crop), ("most", most)) if value is not None}
    if ratio is None and options:
        alone = "--min-crop" if "min_crop" in options else "--most-crops"
        raise DataError(f"{alone}: crops are made with --pan-and-scan alone; expected it too", key=None)
    if ratio is not None and not math.isfinite(ratio):
        raise DataError(f"--pan-and-scan: {ratio} is no ratio of the sides of a picture; expected one such as 1.2", key=None)
    return None if ratio is None else PanAndScan(ratio=ratio, **options)


def _pictures(files, prompt, cut):
    """The pictures in files, all read before a model is. Raises DataError for what is none, and options that do not go together."""
    from arch.errors import DataError
    from arch.images.crops import boxes
    from arch.images.files import opened
    from arch.images.prompts import MARK

    if cut is not None and not files:
        raise DataError("--pan-and-scan: there is no --image to be cut", key=None)
    if not files and MARK in prompt:
        raise DataError(f"the prompt has {MARK}, but no --image is given", key=None)
    pictures = [opened(path) for path in files]
    for path, picture in zip(files, pictures, strict=True):
        if cut is not None and not boxes(*picture.size, cut):
            width, height = picture.size
            whole = f"{path}: shown whole; {width} x {height} pixels give no crops from the ratio {cut.ratio:g} on"
            print(f"{whole} of at least {cut.min_crop} pixels a side", file=sys.stderr)
    return pictures


@app.command()
def encode(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint in our format of a model with a pool.")],
    source: Annotated[str, typer.Argument(metavar="FILE", help="Texts, one a line (.jsonl: its key `text`); - reads from stdin.")],
    task: Annotated[str | None, typer.Option(help="The prompt by its name: query, document, or another of the checkpoint.")] = None,
    prompt: Annotated[str | None, typer.Option(help='The prompt itself, instead of --task; "" for none.')] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="Keep the first numbers of a vector, normalised again.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts that are read at once.")] = 32,
    format: Annotated[str | None, typer.Option(help="jsonl, npy or parquet; by default as --out is called, else jsonl.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default JSON lines on standard output.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by default the checkpoint's.")] = None,
):
    """Write the vector of each text, of length 1, in the order of the texts: the product of two is their cosine."""
    from arch import text_lines, vector_files
    from arch.errors import DataError

    name = vector_files.format_of(format, out)
    total = text_lines.count(source) if Path(source).is_file() else None  # all of it checked before anything is written

    from arch import encoding

    encoder = encoding.load_encoder(checkpoint, _dtype(dtype))
    encoding.check_dim(encoder.model.spec, dim)
    own = encoder.prompt(task, prompt)
    width, done, cut = dim or encoder.model.spec.vector_dim, 0, 0
    shown = not (out is None and sys.stdout.isatty())  # where the vectors themselves appear
    with vector_files.writing(name, out, width) as write, _counting("Encoding", total, shown) as progress:
        parts = encoder.stream(text_lines.texts(source), prompt=own, dim=dim, batch_rows=batch, progress=progress)
        for part in parts:
            write(part.texts, part.vector_NE.numpy())
            done, cut = done + len(part.texts), cut + part.cut
        if not done:
            raise DataError(f"{'standard input' if source == text_lines.STDIN else source}: no text in it", key=None)
    if cut:
        most = f"{encoder.max_tokens:,} tokens, with their prompt"
        warn([f"{cut:,} of {done:,} texts had more than {most}, and were cut"], sys.stderr)


@app.command()
def schema():
    """JSON Schema of a model spec, for editors."""
    from arch.model_spec import ModelSpec
    from arch.schema import json_schema

    print(json.dumps(json_schema(ModelSpec), indent=2))


def _load(reference, changes=()):
    """(document, resolved ModelSpec) of a path or shipped name, with the KEY=VALUE texts of `--set`. Raises SpecError."""
    from arch import document, registry
    from arch.model_spec import ModelSpec

    root = document.load(reference, "arch", changes)
    return root, registry.resolve(ModelSpec.parse(root), root)


def _roles(text):
    """{role: format} that `--quantise` stands for: one format for every role of text, or ROLE=FORMAT for some. Raises SpecError."""
    from arch.errors import SpecError, nearest
    from arch.model_spec import ROLES, TEXT_ROLES

    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(TEXT_ROLES, text)
    pairs = [each.partition("=") for each in text.split(",")]
    for role, equals, name in pairs:
        if not equals or not name:
            raise SpecError(f"expected FORMAT or ROLE=FORMAT,ROLE=FORMAT, got {text!r}", file="--quantise")
        if role not in ROLES:
            raise SpecError(f"no role {role!r}{nearest(role, ROLES)}", file="--quantise")
    return {role: name for role, _, name in pairs}


def _dtype(name):
    """The torch type with this name; None for None. Raises SpecError."""
    from arch.cost import DTYPES
    from arch.errors import SpecError, nearest

    if name is not None and name not in DTYPES:
        raise SpecError(f"dtype: no dtype {name!r}{nearest(name, DTYPES)}")
    return DTYPES.get(name)


def _more(count):
    return f" and {count} more" if count > 0 else ""


@contextmanager
def _bar(title):
    """Show a progress bar in bytes on a terminal; yields a function of (bytes just done, total bytes)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda size, total: bar.update(task, advance=size, total=total)


@contextmanager
def _counting(title, total, shown=True):
    """Show how many of `total` (None: unknown) are done, on a terminal and after two seconds; yields a function of that number."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console, began = Console(stderr=True, markup=False), time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
    task = bar.add_task(title, total=total)

    def progress(done):
        if time.monotonic() - began > 2:
            bar.start()  # does nothing where it runs already
        bar.update(task, completed=done)

    try:
        yield progress
    finally:
        bar.stop()


if __name__ == "__main__":
    main(app, "python -m arch", interrupted="interrupted")
