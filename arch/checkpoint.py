"""Checkpoints in our format.

A checkpoint is a folder with `spec.yaml` (the model) and `model.safetensors` (its weights under our names). It may also
have `tokenizer.json` and `generation_config.json` (the tokens that begin and end a text). The folder of a finished run
is a checkpoint.
"""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from ruamel.yaml import YAML

from arch import digests, document, registry, tensors
from arch.errors import DataError
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.whole_file import writing

SPEC, WEIGHTS, TOKENIZER, GENERATION = "spec.yaml", "model.safetensors", "tokenizer.json", "generation_config.json"
BLIND = "blind_token_id"  # our own: what a model reads in place of each token that it writes, where it sees no answer of its own
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", BLIND)
CHAT_TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
TEXT_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", CHAT_TEMPLATE, GENERATION)


def is_checkpoint(path):
    """Whether `path` is a folder in our format."""
    return (Path(path) / SPEC).is_file() and (Path(path) / WEIGHTS).is_file()


def open_checkpoint(folder, spec=None):
    """(ModelSpec, Tensors) of a folder in our format. `spec` replaces the folder's own spec.

    Raises DataError, also where the tensors are not those of the model, or SpecError.
    """
    if not is_checkpoint(folder):
        foreign = any((Path(folder) / name).is_file() for name in ("modules.json", "config.json"))
        way = f"; it is of another library: `archbench import {folder} OUT` converts it" if foreign else tensors.below(folder)
        raise DataError(f"{folder}: no checkpoint: expected {SPEC} and {WEIGHTS} in it{way}", key=None)
    if spec is None:
        root = document.load(str(Path(folder) / SPEC), "arch")
        spec = registry.resolve(ModelSpec.parse(root), root)
    found = tensors.open_tensors(Path(folder) / WEIGHTS)
    check(folder, parameters(spec), found.entries)
    digests.check(folder)
    return spec, found


def parameters(spec):
    """{name: shape} of the parameters of a spec's model, without allocating weights."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Model(spec).named_parameters()}


def check(source, expected, entries, called=None):
    """Raise a DataError that lists every missing, extra or misshapen tensor, with both shapes.

    expected: {our name: shape}. entries: {name: Entry}. called: {our name: the name to show in the error}.
    """
    called = called or {name: name for name in expected}
    lines = [f"  missing    {called[name]}, expected {_shape(shape)}" for name, shape in expected.items() if name not in entries]
    lines += [f"  extra      {name}, {_shape(entry.shape)}" for name, entry in entries.items() if name not in expected]
    lines += [
        f"  misshapen  {called[name]}, {_shape(entries[name].shape)}, expected {_shape(shape)}"
        for name, shape in expected.items()
        if name in entries and entries[name].shape != shape
    ]
    if lines:
        raise DataError(f"{source}: its tensors are not those of the model:\n" + "\n".join(lines), key=None)


def _shape(shape):
    return " x ".join(map(str, shape)) or "a number"


def fill(model, found):
    """Copy tensors into the parameters of `model` with the same names, one at a time; returns `model`."""
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in found.read():
            weights[name].copy_(tensor)
    return model


def build(spec, found, dtype=None):
    """The Model of `spec` with weights from Tensors. `dtype`: by default the type of most of the weights."""
    sizes = {}
    for entry in found.entries.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + torch.Size(entry.shape).numel()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype or max(sizes, key=sizes.get))
    try:
        model = Model(spec)
    finally:
        torch.set_default_dtype(usual)
    return fill(model.eval(), found)


def load(folder, dtype=None, spec=None):
    """The Model of a checkpoint folder; `spec` replaces its own spec. Raises DataError or SpecError."""
    return build(*open_checkpoint(folder, spec), dtype)


def write_spec(spec, path):
    """Write a resolved ModelSpec as YAML. `ModelSpec.parse` reads it back as an equal spec."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    with open(path, "w", encoding="utf-8") as file:
        yaml.dump(spec.dump(), file)


def write(spec, found, folder, progress=None):
    """Write a model's spec and its Tensors into an existing folder. progress: as for `tensors.write`."""
    digests.discard(folder)
    write_spec(spec, Path(folder) / SPEC)
    tensors.write(found, Path(folder) / WEIGHTS, progress)
    digests.write(folder)


def generation(folder):
    """The ids of the tokens that begin, end and pad a text, as a checkpoint folder (ours or Hugging Face's) gives them.

    {bos_token_id: id, eos_token_id: id or list of ids, pad_token_id: id, BLIND: id}; keys that the folder lacks are absent.
    Raises DataError for a file that is no JSON mapping or an id that is no whole number of at least 0.
    """
    found = {}
    for name in (GENERATION, "config.json"):
        path = Path(folder) / name
        if not path.is_file():
            continue
        try:
            said = json.loads(path.read_text())
            for place in (said, said.get("text_config") or {}):
                for key in TOKEN_KEYS:
                    if place.get(key) is not None:
                        found.setdefault(key, place[key])
        except (ValueError, AttributeError):
            raise DataError(f"{path}: expected a JSON mapping", key=None) from None
    for key, value in found.items():
        several = value if isinstance(value, list) and key == "eos_token_id" else [value]
        if not all(type(number) is int and number >= 0 for number in several):
            raise DataError(f"{folder}: {key}: expected the number of a token, got {json.dumps(value)}", key=None)
    return found


def copy_text_files(source, folder):
    """Copy the tokenizer's files and the generation config, where they exist."""
    for name in TEXT_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(folder) / name)


@contextmanager
def appearing(folder):
    """Yield a scratch folder, renamed to `folder` when the block succeeds and deleted when it fails.

    Raises DataError if `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already; give the name of a new folder", key=None)
    scratch = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        try:
            scratch.mkdir(parents=True)
        except FileExistsError:
            raise DataError(f"{scratch}: another import writes here, or was killed; delete it and start again", key=None) from None
        try:
            yield scratch
            scratch.replace(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
