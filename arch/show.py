"""Terminal tables of a model's costs and of a component's options."""

import json
from collections import Counter
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arch import explained, registry, units
from arch.model_spec import repeated
from arch.spec import ABSENT, diff, spelt, unwritten


def components(package):
    """Yields the options of every component of a package (`experiments`), as `rich` renderables."""
    for kind, folder in registry.FOLDERS.items():
        if folder.startswith(f"{package}."):
            for name in registry.names(kind):
                component = registry.component(kind, name)
                yield Text.assemble((f"{kind} {name}", "bold"), f": {registry.purpose(component)}")
                yield options(None, component.Config) if component.Config.model_fields else Text("no options\n")


def options(title, config):
    """A table of a component's options with the values that each accepts, its default and what it means."""
    meanings = explained.options(config)
    table = Table("option", "accepts", "default", "meaning", title=title, title_justify="left")
    for name, schema in config.model_json_schema(by_alias=True)["properties"].items():
        field, meaning = config.model_fields[name], meanings.get(name, "").partition(". ")[0]
        table.add_row(name, _accepts(schema), "(required)" if field.is_required() else written(field.default), meaning)
    return table


def _accepts(schema):
    if "anyOf" in schema:
        return " or ".join(_accepts(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(written, schema["enum"]))
    if "component" in schema:
        return f"a {schema['component']}"
    return schema["$ref"].rpartition("/")[2] if "$ref" in schema else schema.get("type", "anything")


def written(value):
    """A value as it would stand in a spec file; a dash for ABSENT."""
    if value is ABSENT:
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=lambda spec: spec.dump())


def realised(spec):
    """The pattern as realised by the layers, such as `10 x (5 local, global), 2 local: 52 local, 10 global`."""
    items = [repeated(item) for item in spec.pattern]
    if len(items) == 1:
        return _times(items[0][0], spec.layers)
    cycles, rest = divmod(spec.layers, sum(count for _, count in items))
    parts = []
    if cycles:
        body = ", ".join(_times(name, count) for name, count in items)
        parts.append(body if cycles == 1 else f"{cycles} x ({body})")
    if rest:
        runs = groupby(spec.layer_blocks()[-rest:])
        parts.append(", ".join(_times(name, len(list(run))) for name, run in runs))
    totals = ", ".join(f"{count} {name}" for name, count in Counter(spec.layer_blocks()).items())
    return f"{', '.join(parts)}: {totals}"


def costs(spec, name, summary):
    """A rich renderable of `cost.summary`: rounded numbers with units, and the exact numbers in brackets."""
    parameters, cache, training = (summary[key] for key in ("parameters", "cache_bytes", "training_bytes"))
    encodes = spec.pool is not None
    text: list[RenderableType] = [
        Text.assemble((name, "bold"), f": dim {spec.dim}, {spec.layers} layers, vocabulary {spec.vocab_size:,}"),
        f"pattern: {realised(spec)}",
        *([f"pool: {_behind(spec)}"] if encodes else ()),
        *([] if spec.encoder is None else [_encoder(spec)]),
        f"context {summary['context']:,} tokens, {summary['dtype']}",
    ]
    columns = ("block", "layers", "parameters per layer", *(() if encodes else ("cache per layer",)))
    per_block = Table(*columns, title="Layers", title_justify="left")
    for block, count in Counter(summary["layers"]).items():
        layer = summary["layers"].index(block)
        cached = () if encodes else (_bytes(cache["layers"][layer]),)
        per_block.add_row(block, str(count), _count(parameters["layers"][layer]), *cached)
    sizes = Table("", "", show_header=False)
    for key in ("total", "embedding", "non_embedding"):
        sizes.add_row(f"parameters, {key.replace('_', ' ')}", _count(parameters[key]))
    if spec.encoder is not None:
        sizes.add_row("parameters, encoder", _count(parameters["encoder"]))
    if encodes:
        sizes.add_row("parameters, pool and projections", _count(parameters["pool"]))
        sizes.add_row("vector of one text", f"{spec.vector_dim:,} numbers, {_bytes(summary['vector_bytes'])}")
    else:
        sizes.add_row("cache of one stream", _bytes(cache["total"]))
    parts = ("weights", "gradients", "optimizer", "activations", "rounded", "images", "total")
    for key in (part for part in parts if part in training):
        sizes.add_row(f"training memory, {key}", _bytes(training[key]))
    if vision := summary.get("vision"):
        for part, number in vision["parameters"].items():
            sizes.add_row(f"parameters, vision {part}", _count(number))
        sizes.add_row("soft tokens of an image", f"{vision['tokens']:,}")
        for path, number in vision["flops_per_image"].items():
            sizes.add_row(f"FLOPs of an image, {path}", _flops(number))
    flops = Table("FLOPs per token", "ideal", "executed")
    for path in ("train", "prefill") if encodes else ("train", "prefill", "decode"):
        flops.add_row(path, *(_flops(summary["flops_per_token"][kind][path]) for kind in ("ideal", "executed")))
    about = "Training memory is for one row: weights, gradients, AdamW's moments, and what the backward pass needs."
    if spec.encoder is not None:
        about += (
            f" Of the {summary['context']:,} tokens of a row, half are read by the encoder and half by the decoder; the cache is "
            "the decoder's, with keys and values of the source."
        )
    if encodes:
        about += f" FLOPs per token are those of a text of {summary['context']:,} tokens, divided by them."
    return Group(*text, per_block, sizes, flops, about, *(f"note: {note}" for note in summary["notes"]))


def _encoder(spec):
    """The encoder beside a decoder in one line: `encoder: dim 64, 4 layers (2 x (local, global): ...), embedding shared`."""
    stack = spec.encoder_spec
    return f"encoder: dim {stack.dim}, {stack.layers} layers ({realised(stack)}), embedding {spec.encoder.embedding}"


def by_format(memory):
    """A rich renderable of `arch.packed.memory`."""
    weights = Table("weights", "format", "values", "bits each", "packed", title="Packed weights", title_justify="left")
    for role, each in memory["weights"].items():
        weights.add_row(role, each["format"], _count(each["parameters"]), f"{each['bits']:.4g}", _bytes(each["bytes"]))
    formats = [name for name in ("float32", "bfloat16", "8 bits", "packed") if any(name in memory[key] for key in _PARTS)]
    sizes = Table("", *formats, title=f"Memory by format, {memory['context']:,} tokens", title_justify="left")
    for key, title in _PARTS.items():
        cells = [memory[key].get(name) for name in formats]
        sizes.add_row(title, *("" if value is None else units.size(value) for value in cells))
    return Group(weights, sizes)


_PARTS = {
    "weight_bytes": "weights",
    "cache_bytes": "cache of one stream",
    "activation_bytes": "activations, training on one row",
}


def _behind(spec):
    """Pool and projections in one line: `attention (heads: 4), 256 -> 1,024 -> 256`."""
    options = ", ".join(f"{key}: {spelt(value)}" for key, value in spec.pool.items() if key != "type")
    widths = f", {' -> '.join(f'{width:,}' for width in (spec.dim, *spec.project))}" if spec.project else ""
    return f"{spec.pool['type']}{f' ({options})' if options else ''}{widths}"


def _times(name, count):
    return name if count == 1 else f"{count} {name}"


def _count(value):
    return units.exactly(units.count(value), value)


def _bytes(value):
    return units.exactly(units.size(value), value)


def _flops(value):
    return units.exactly(units.flops(value), value)


def differences(a: dict[str, Any], b: dict[str, Any], written_a: dict[str, Any], written_b: dict[str, Any]) -> None:
    """Print the keys in which two resolved specs, as plain data, differ, with both values. written: see `unwritten`."""
    changes = diff(a, b)
    left_out = unwritten(changes, written_a, written_b)
    for key, (in_a, in_b) in changes.items():
        if key not in left_out:
            print(f"{key}: {spelt(in_a)} -> {spelt(in_b)}")
    if not changes:
        print("no difference")
