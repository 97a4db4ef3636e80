"""Named tensors in files, read and written one at a time, because a checkpoint may be larger than memory.

Reads safetensors (one file, or a folder of shards) and files of `torch.save` that load without running code.
Writes safetensors by its published layout: 8 bytes with the header's length, a JSON header, the tensors' bytes.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from arch.errors import DataError

# The file of a model that is saved as one; a folder that has it is read without its index and its shards.
SINGLE = "model.safetensors"
# What peft calls the weights of a low-rank adapter.
ADAPTER = "adapter_model.safetensors"
# safetensors' names of the supported types. Other types are quantised, and we do not guess how.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Shape and type of a tensor, known before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Tensors:
    """Tensors by name.

    entries: {name: Entry} from the files' headers. read: yields (name, tensor), each once and in the files' order. The
    reader should drop each tensor before it takes the next.
    """

    entries: dict[str, Entry]
    read: Callable[[], Iterator[tuple[str, torch.Tensor]]]


@dataclass(frozen=True)
class As:
    """A tensor's name in a checkpoint; `read` converts it to our layout, `write` back (None: it cannot be written)."""

    name: str
    read: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
    write: Callable[[torch.Tensor], torch.Tensor] | None = lambda tensor: tensor


def open_tensors(path):
    """The Tensors of a file, or of a folder of safetensors files. Raises DataError."""
    path = Path(path)
    if not path.exists():
        hub = f"; if it is on the Hugging Face hub: hf download {path} --local-dir FOLDER" if len(path.parts) == 2 else ""
        raise DataError(f"{path}: no such file or folder{hub}", key=None)
    if path.is_dir():
        return _folder(path)
    return _shards([path]) if path.suffix == ".safetensors" else _pickled(path)


def below(folder):
    """The end of an error about a folder without tensors: a folder in it that has some, such as `failed` of a run, or a seed's."""
    found = sorted(path.parent for depth in ("*", "*/*") for path in Path(folder).glob(f"{depth}/*.safetensors"))
    return f"; there is one in {found[0]}" if found else ""


def of_mapping(mapping):
    """The Tensors of a {name: tensor} mapping in memory."""
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in mapping.items()}
    return Tensors(entries, lambda: iter(mapping.items()))


def joined(folders):
    """{folder: Tensors} as one: each name with its folder in front, and without one for the folder ``."""
    called = {folder: f"{folder}/" if folder else "" for folder in folders}
    entries = {called[folder] + name: entry for folder, held in folders.items() for name, entry in held.entries.items()}

    def read():
        for folder, held in folders.items():
            for name, tensor in held.read():
                yield called[folder] + name, tensor

    return Tensors(entries, read)


def renamed(tensors, table):
    """`tensors` under new names. table: {new name: As(old name, read)}; several names may share one old tensor."""
    wanted = {}
    for new, source in table.items():
        wanted.setdefault(source.name, []).append((new, source))
    entries = {}
    for new, source in table.items():
        old = tensors.entries[source.name]
        entries[new] = Entry(tuple(source.read(torch.empty(old.shape, dtype=old.dtype, device="meta")).shape), old.dtype)

    def read():
        for old, tensor in tensors.read():
            for new, source in wanted.get(old, ()):
                yield new, source.read(tensor)

    return Tensors(entries, read)


def write(tensors, path, progress=None):
    """Write `tensors` as one safetensors file, holding one tensor at a time.

    progress: called after each tensor with (its bytes, total bytes).
    """
    header, offsets, end = {"__metadata__": {"format": "pt"}}, {}, 0
    for name, entry in tensors.entries.items():
        size = entry.dtype.itemsize * torch.Size(entry.shape).numel()
        header[name] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [end, end + size]}
        offsets[name], end = end, end + size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        first = file.tell()
        file.truncate(first + end)
        for name, tensor in tensors.read():
            file.seek(first + offsets[name])
            size = file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            if progress:
                progress(size, end)


def set_aside(folder):
    """The safetensors files of a folder that `open_tensors` does not read, because `model.safetensors` is there too.

    `transformers` reads that one alone. The others are shards of an earlier save, an adapter, or the same weights in another
    format.
    """
    single = Path(folder) / SINGLE
    return sorted(path.name for path in Path(folder).glob("*.safetensors") if path != single) if single.is_file() else []


def _folder(folder):
    if (folder / SINGLE).is_file():
        return _shards([folder / SINGLE])
    index = folder / f"{SINGLE}.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise DataError(f"{index}: expected JSON with a `weight_map` of tensor names to files", key=None) from None
        if missing:
            raise DataError(f"{index}: names files that are not there: {', '.join(missing)}", key=None)
        return _shards([folder / name for name in names])
    files = sorted(folder.glob("*.safetensors"))
    if [path.name for path in files] == [ADAPTER]:
        raise DataError(
            f"{folder}: {ADAPTER} is an adapter without its model; expected the model with the adapter merged", key=None
        )
    if not files:
        pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
        also = f"; it has {', '.join(pickles)}: give such a file itself, with a spec" if pickles else ""
        raise DataError(f"{folder}: no .safetensors file in it{also}{below(folder)}", key=None)
    return _shards(files)


def _shards(files):
    entries, holders = {}, {}
    for path in files:
        for name, entry in _header(path):
            if name in entries:
                raise DataError(f"{path}: {name} is in {holders[name].name} too", key=None)
            entries[name], holders[name] = entry, path

    def read():
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.offset_keys():
                    yield name, file.get_tensor(name)

    return Tensors(entries, read)


def _header(path):
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                piece = file.get_slice(name)
                if piece.get_dtype() not in DTYPES:
                    raise _wrong_type(path, name, piece.get_dtype())
                yield name, Entry(tuple(piece.get_shape()), DTYPES[piece.get_dtype()])
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error})", key=None) from None


def _pickled(path):
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise DataError(f"{path}: refused: it is no file of tensors alone, and loading it could run any code", key=None) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: neither safetensors nor a file of torch.save ({reason})", key=None) from None
    named = isinstance(loaded, dict) and all(isinstance(name, str) for name in loaded)
    if not named or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise DataError(f"{path}: expected a mapping of names to tensors", key=None)
    for name, tensor in loaded.items():
        if tensor.dtype not in NAMES:
            raise _wrong_type(path, name, str(tensor.dtype).removeprefix("torch."))
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise DataError(f"{path}: {name} is a {'meta' if tensor.is_meta else 'sparse'} tensor; expected values", key=None)
    return of_mapping(loaded)


def _wrong_type(path, name, dtype):
    return DataError(f"{path}: {name} is of type {dtype}; expected one of {', '.join(DTYPES)}", key=None)
