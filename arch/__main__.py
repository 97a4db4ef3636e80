"""`python -m arch`: what models there are, what one costs, how two differ."""

import json
from typing import Annotated

import typer

from arch.cli import main, new_app

app = new_app("Models as specs: list them, show what they cost, compare them.")

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A path ending in .yaml, or a shipped name (see `list`).")
]


@app.command("list")
def list_():
    """Components with their options and defaults, and the shipped specs."""
    from rich.console import Console

    from arch import document, registry
    from arch.show import options

    console = Console(highlight=False)
    for kind in ("mixer", "ffn"):
        for name in registry.names(kind):
            console.print(options(f"{kind} {name}", registry.component(kind, name).Config))
    console.print("specs: " + ", ".join(document.shipped("arch")))


@app.command()
def show(
    spec: SpecArgument,
    context: Annotated[int, typer.Option(help="Tokens that FLOPs, cache and activations are counted at.")] = 8192,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16: weights, activations and cache.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON, with exact numbers.")] = False,
):
    """What a model costs before any weight exists: parameters, FLOPs a token, cache, training memory."""
    root, resolved = _load(spec)

    from arch import cost
    from arch.spec import digest

    cost.check_builds(resolved, root)
    summary = cost.summary(resolved, context, dtype)
    if as_json:
        print(json.dumps({"spec": spec, "digest": digest(resolved), **summary}))
        return
    from rich.console import Console

    from arch.show import costs

    Console(highlight=False).print(costs(resolved, spec, summary))


@app.command()
def diff(a: SpecArgument, b: SpecArgument):
    """The keys in which two specs differ once every default is filled in."""
    from arch.show import written
    from arch.spec import diff

    differences = diff(_load(a)[1], _load(b)[1])
    for key, (in_a, in_b) in differences.items():
        print(f"{key}: {written(in_a)} -> {written(in_b)}")
    if not differences:
        print("no difference")


@app.command()
def schema():
    """JSON Schema of a model spec, for editors."""
    from arch.schema import json_schema
    from arch.spec import ModelSpec

    print(json.dumps(json_schema(ModelSpec), indent=2))


def _load(reference):
    """The document of a spec and the resolved ModelSpec. Raises SpecError."""
    from arch import document, registry
    from arch.spec import ModelSpec

    root = document.load(reference, "arch")
    return root, registry.resolve(ModelSpec.parse(root), root)


if __name__ == "__main__":
    main(app, "arch")
