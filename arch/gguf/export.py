"""A checkpoint in our format as a GGUF file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arch import checkpoint, document, prompts, quantised, registry
from arch.cost import DTYPES
from arch.errors import DataError
from arch.gguf import architectures, file, vocabulary
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.tensors import Tensors
from arch.whole_file import appearing, writing
from arch.words import listed

CONTEXT = 8192  # tokens, where a checkpoint does not say how many it reads
FORMATS = ("q4_0", "q8_0")
FILE_TYPES = {"float32": 0, "float16": 1, "q4_0": 2, "q8_0": 7, "bfloat16": 32}
QUANTISATION = 2  # the version of ggml's blocks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """architecture: its name in the file. kinds: {how tensors are stored: their bytes}. notes: what to know of the file."""

    architecture: str
    kinds: dict[str, int]
    notes: list[str]


def export(
    source: Path | str,
    out: Path | str,
    dtype: str = "float32",
    quantise: Mapping[str, str] | None = None,
    context: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the checkpoint `source` as the GGUF file `out`, one tensor at a time.

    dtype: of matrices that are not quantised; norms are always float32. quantise: {role: q4_0 or q8_0}; None: as the checkpoint's
    spec says. context: of how many tokens the file says that the model reads them, by default what the checkpoint says, else
    CONTEXT. Raises DataError or SpecError; nothing is written then.
    """
    spec, found = checkpoint.open_checkpoint(source)
    root = document.load(str(Path(source) / checkpoint.SPEC), "arch")
    formats = _formats(spec, root, quantise)
    try:
        architecture = architectures.architecture(spec)
        kinds = kinds_of(spec, formats, dtype)
    except ValueError as error:
        key, _, reason = str(error).partition(": ")
        raise root.error(reason, tuple(key.split("."))) from None
    about = vocabulary.metadata(source, spec.vocab_size, encoder=spec.pool is not None)
    context = context or prompts.most_tokens(source) or CONTEXT
    out = Path(out)
    if out.exists():
        raise DataError(f"{out}: is there already; give the name of a new file", key=None)
    with writing(out), appearing(out) as scratch:
        write(spec, found, scratch, kinds, context, about, progress)
    return Exported(architecture.name, _sizes(spec, kinds), _notes(spec, source, about, kinds, found))


def write(
    spec: ModelSpec,
    found: Tensors,
    path: Path,
    kinds: Mapping[str, str],
    context: int,
    about: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Write the Tensors of a model. kinds: as `kinds_of` gives them. about: of its vocabulary.

    Raises ValueError, `KEY: reason`, for a model that llama.cpp does not compute, and DataError for a tensor that cannot be stored.
    """
    quantisers = {name: registry.build("quantiser", {"type": name}) for name in FORMATS}
    matrices = [kinds[name] for name in found.entries if len(found.entries[name].shape) > 1]
    version = {"general.quantization_version": QUANTISATION} if set(kinds.values()) & set(FORMATS) else {}
    usual = max(set(matrices), key=matrices.count)
    said = architectures.metadata(spec, context) | {"general.file_type": FILE_TYPES[usual]} | version | dict(about)
    entries = {architectures.place(name): file.Stored(entry.shape, kinds[name]) for name, entry in found.entries.items()}

    def stored():
        for name, tensor in found.read():
            kind, weight = kinds[name], tensor.detach()
            if not weight.isfinite().all():
                raise DataError(f"{name} is not finite", key=None)
            if kind in quantisers:
                yield architectures.place(name), quantisers[kind].pack(weight)["blocks"].numpy()
            else:
                yield architectures.place(name), _bytes(1 + weight.float() if weight.ndim == 1 else weight, DTYPES[kind], name)

    file.write(path, said, entries, stored(), progress)


def kinds_of(spec: ModelSpec, formats: Mapping[str, str], dtype: str) -> dict[str, str]:
    """{parameter: how it is stored, of `file.KINDS`} of a resolved ModelSpec. formats: {role: q4_0 or q8_0}. dtype: of the others.

    Raises ValueError, `quantise.ROLE: reason`, for a width that a format cannot hold.
    """
    kinds = {}
    for name, weight in _parameters(spec):
        role = quantised.role(name, weight)
        kinds[name] = "float32" if role is None else formats.get(role, dtype)
        block = file.KINDS[kinds[name]].block
        if weight.shape[-1] % block:
            reason = f"{kinds[name]} needs rows of a multiple of {block} values, and those of {name} have {weight.shape[-1]:,}"
            raise ValueError(f"quantise.{role}: {reason}")
    return kinds


def _formats(spec, root, quantise):
    """{role: format} that is meant. Raises DataError or SpecError."""
    trained = {role: each["type"] for role, each in (spec.quantise.roles() if spec.quantise else {}).items()}
    for role, name in trained.items():
        if name not in FORMATS:
            raise root.error(f"GGUF files have no {name}; expected {' or '.join(FORMATS)}", ("quantise", role, "type"))
    for role, name in (quantise or {}).items():
        if name not in FORMATS:
            raise DataError(f"--quantise: GGUF files have no {name}; expected {' or '.join(FORMATS)}", key=None)
        if trained.get(role, name) != name:
            reason = f"the model computes with {trained[role]}, and {name} would round its float weights otherwise"
            raise root.error(f"{reason}; leave --quantise out", ("quantise", role))
    return trained | dict(quantise or {})


def _bytes(values, dtype, name):
    """The bytes of a tensor in a float type. Raises DataError where a number of it is beyond that type."""
    cast = values.to(dtype)
    if not cast.isfinite().all():
        raise DataError(f"{name} has numbers that {str(dtype).removeprefix('torch.')} cannot hold", key=None)
    return cast.contiguous().view(torch.uint8).numpy()


def _sizes(spec, kinds):
    found: dict[str, int] = {}
    for name, shape in checkpoint.parameters(spec).items():
        found[kinds[name]] = found.get(kinds[name], 0) + file.Stored(shape, kinds[name]).bytes
    return found


def _notes(spec, source, about, kinds, found):
    notes = []
    if set(kinds.values()) & set(FORMATS):
        roles = dict.fromkeys(quantised.role(name, weight) for name, weight in _parameters(spec) if kinds[name] not in FORMATS)
        left = [f"the maps of the role {role}" if role != "embedding" else "the embedding" for role in roles if role]
        notes.append(f"not quantised: {listed([*left, 'norms'])}")
        if spec.quantise and any(entry.dtype is not torch.float32 for entry in found.entries.values()):
            notes.append("the file's values are float32; the checkpoint's model rounds them to its own type as well")
    if about["tokenizer.ggml.model"] == "no_vocab":
        notes.append(f"no vocabulary, because {source} has no {checkpoint.TOKENIZER}: tokens are numbers")
    else:
        kinds_of_tokens, merges = about["tokenizer.ggml.token_type"], len(about["tokenizer.ggml.merges"])
        unused = kinds_of_tokens.count(vocabulary.UNUSED)
        more = f"; {unused:,} rows of the embedding have no token" if unused else ""
        notes.append(f"vocabulary: {len(kinds_of_tokens) - unused:,} tokens of byte-level BPE, {merges:,} merges{more}")
    for name, text in (prompts.prompts(source) if spec.pool is not None else {}).items():
        notes.append(f"a GGUF file has no prompts; put in front of a {name}: {text!r}")
    return notes


def _parameters(spec):
    with torch.device("meta"):
        return list(Model(spec.model_copy(update={"quantise": None})).named_parameters())
