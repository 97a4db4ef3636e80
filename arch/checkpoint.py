"""A checkpoint is a folder: `spec.yaml`, the model; `model.safetensors`, its weights by our names; where there are any,
`tokenizer.json` and `generation_config.json` (the tokens that begin and end a text). A finished run's folder is one."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from ruamel.yaml import YAML

from arch import document, registry, tensors
from arch.errors import DataError
from arch.model import Model
from arch.spec import ModelSpec

SPEC, WEIGHTS, TOKENIZER, GENERATION = "spec.yaml", "model.safetensors", "tokenizer.json", "generation_config.json"
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
TEXT_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", GENERATION)


def is_checkpoint(path):
    """Whether `path` is a folder in our format."""
    return (Path(path) / SPEC).is_file() and (Path(path) / WEIGHTS).is_file()


def open_checkpoint(folder, spec=None):
    """(ModelSpec, Tensors) of a folder in our format, its own spec or a given one. Raises DataError or SpecError."""
    if not is_checkpoint(folder):
        raise DataError(f"{folder}: no checkpoint: expected {SPEC} and {WEIGHTS} in it", key=None)
    if spec is None:
        root = document.load(str(Path(folder) / SPEC), "arch")
        spec = registry.resolve(ModelSpec.parse(root), root)
    found = tensors.open_tensors(Path(folder) / WEIGHTS)
    check(folder, parameters(spec), found.entries)
    return spec, found


def parameters(spec):
    """{name: shape} of a spec's model, without making one."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Model(spec).named_parameters()}


def check(source, expected, entries, called=None):
    """Raises DataError that lists every missing, extra or misshapen tensor, with both shapes.

    expected: {our name: shape}. called: {our name: the name to show}.
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
    """Copy tensors into the parameters of `model` that have their names, one at a time."""
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in found.read():
            weights[name].copy_(tensor)
    return model


def build(spec, found, dtype=None):
    """The Model of `spec` filled from Tensors, in `dtype`: by default that of most of its numbers."""
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
    """The Model of a checkpoint folder, of its own spec or a given one. Raises DataError or SpecError."""
    return build(*open_checkpoint(folder, spec), dtype)


def write_spec(spec, path):
    """A resolved ModelSpec as YAML that `ModelSpec.parse` reads back as the same."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    with open(path, "w", encoding="utf-8") as file:
        yaml.dump(spec.dump(), file)


def write(spec, found, folder, progress=None):
    """Write a model's spec and its Tensors into a folder that exists."""
    write_spec(spec, Path(folder) / SPEC)
    tensors.write(found, Path(folder) / WEIGHTS, progress)


def generation(folder):
    """What a checkpoint folder, ours or Hugging Face's, says of the tokens that begin, end and fill up a text.

    {bos_token_id: id, eos_token_id: id or list of ids, pad_token_id: id}, each where it is said. Raises DataError.
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
    """Copy the tokenizer and what says which tokens begin and end a text, where there are any."""
    for name in TEXT_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(folder) / name)


@contextmanager
def appearing(folder):
    """A scratch folder that takes the name `folder` when the block ends well, and is gone if it does not.

    Raises DataError if `folder` is there already or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already; give the name of a new folder", key=None)
    scratch = folder.with_name(f".{folder.name}.partial")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        scratch.replace(folder)
    except FileExistsError:
        raise DataError(f"{scratch}: another import writes here, or was killed; delete it and start again", key=None) from None
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})", key=None) from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
