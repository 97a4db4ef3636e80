"""A model of which every rank holds a part of each weight (FSDP2), and its checkpoints: folders that all ranks write.

FSDP2 gathers the weights of a module while that module's forward pass runs. So the whole pass of a micro-batch, trunk and
loss, runs as the forward pass of one module, `Root`. It holds what no block holds: embedding, final norm and head. These
are whole from the pass until the end of its backward pass, because a chunked loss uses the head's weight (or the embedding,
where they are tied) without calling a module. Each block is gathered and freed on its own.

A checkpoint is a folder `ckpt-STEP`. It is written beside, under another name, and counts once POINTER names it. So a kill
at any moment leaves the last whole one. The one before it is kept too. SUMS in it says how many processes wrote it, and the
CRC-32 of each file: torch does not look at the checksums within its files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arch.errors import DataError
from arch.model import Model
from experiments import ranks
from experiments.files import flush, write_atomically

POINTER, PREFIX, SUMS = "checkpoint.json", "ckpt-", "sums.json"
REST = "meta.pt"  # what Lightning writes beside the tensors
READ = 1 << 24  # bytes at a time


class Root(nn.Module):
    """Everything that is computed of a micro-batch, as the forward pass of one module around the model."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model
        self.about = {name: dict(vars(weight)) for name, weight in model.named_parameters()}

    def forward(self, compute: Callable[..., Any], *inputs: Any) -> Any:
        """What `compute(*inputs)` returns. It may use every weight of the model, but of a block only by calling it."""
        return compute(*inputs)

    def named_weights(self) -> list[tuple[str, Tensor]]:
        """The model's named parameters, which say of themselves what those of the whole model said (`arch.parameters`).

        Sharding makes new parameters, and so does every move to a device.
        """
        for name, weight in self.model.named_parameters():
            vars(weight).update(self.about[name])
        return list(self.model.named_parameters())


def shard(model: Model, mesh: Any) -> Root:
    """Leave on this rank only its part of every weight, for the ranks of a DeviceMesh. Call the model within the Root."""
    from torch.distributed.fsdp import fully_shard

    root = Root(model)
    for part in (*model.blocks, root):  # the blocks first: the root then holds what is left
        fully_shard(part, mesh=mesh)
    return root


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; a tensor that is not shared as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank holds only a part of some weight. Within the pass of a Root, its own are whole and the blocks' are not."""
    return any(hasattr(weight, "to_local") for weight in model.parameters())


def whole(model: Model, convert: Callable[[Model], nn.Module]) -> Model | None:
    """A copy of the model with all of its weights on the first rank, None on the others. All ranks must call it.

    convert: gives a model the type in which it is trained.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank():
        return None
    copy: Any = convert(Model(model.spec))
    copy.load_state_dict(weights)
    return copy.to(local(next(model.parameters())).device)


class Damaged(Exception):
    """A checkpoint cannot be gone on from; what is wrong with it, in words that follow its name."""


def save(trainer: Any, folder: Path) -> None:
    """Write a checkpoint of the trainer's state into the run's folder (the first rank's), then forget all but the one before."""
    name = f"{PREFIX}{trainer.global_step}"
    scratch = Path(trainer.strategy.broadcast(str(folder / f".{name}.{os.getpid()}")))
    trainer.save_checkpoint(scratch)  # returns when every rank has written its part
    every = ranks.gathered(_sums(_written_by(scratch, trainer.global_rank)))
    sums = {name: number for each in every for name, number in each.items()}
    ranks.agreed(lambda: _point(folder, scratch, name, trainer.world_size, sums))


def _written_by(place, rank):
    """The files of a checkpoint that a rank wrote, as torch names them; what belongs to no rank is the first one's."""
    for path in place.iterdir():
        found = re.match(r"__(\d+)_", path.name)
        if (int(found[1]) if found else 0) == rank:
            yield path


def _sums(paths):
    """{name: CRC-32} of files."""
    sums = {}
    for path in paths:
        number = 0
        with path.open("rb") as file:
            while part := file.read(READ):
                number = zlib.crc32(part, number)
        sums[path.name] = number
    return sums


def _point(folder, scratch, name, processes, sums):
    (scratch / SUMS).write_text(json.dumps({"processes": processes, "sums": sums}))
    for path in (*scratch.iterdir(), scratch):
        flush(path)
    shutil.rmtree(folder / name, ignore_errors=True)  # of this step, if a process was killed before it moved the pointer
    os.replace(scratch, folder / name)
    flush(folder)
    write_atomically(folder / POINTER, json.dumps({"folder": name, "processes": processes}).encode())
    _clean(folder, [name, *_before(folder, name)])


def _before(folder, name):
    """The checkpoint before this one, if there is one."""
    earlier = [place.name for place in _folders(folder) if _number(place) < _number(Path(name))]
    return earlier[:1]


def latest(folder: Path) -> Path | None:
    """The folder of the checkpoint that counts, or None."""
    pointed = _pointed(folder)
    return folder / pointed["folder"] if pointed and (folder / pointed["folder"]).is_dir() else None


def places(folder: Path) -> list[Path]:
    """The folders of the checkpoints in a run's folder: the one that counts, then the others, the newest first."""
    counts = latest(folder)
    return [*([counts] if counts else []), *(place for place in _folders(folder) if place != counts)]


def check_whole(place: Path) -> None:
    """Raises Damaged unless the checkpoint in this folder of its own is as it was written; every file is read. Raises OSError."""
    from torch.distributed.checkpoint import FileSystemReader

    try:
        if (place / SUMS).is_file():
            expected = {str(name): int(number) for name, number in json.loads((place / SUMS).read_text())["sums"].items()}
            found = _sums(place / name for name in expected)
            changed = [name for name in expected if found[name] != expected[name]]
            if changed:
                raise Damaged(f"the bytes of its {changed[0]} have changed, or it was cut short")
        parts: dict[str, int] = {}
        for part in FileSystemReader(place).read_metadata().storage_data.values():
            parts[part.relative_path] = max(parts.get(part.relative_path, 0), part.offset + part.length)
        short = [name for name, size in parts.items() if (place / name).stat().st_size < size]
    except (PermissionError, Damaged):
        raise
    except FileNotFoundError as error:
        raise Damaged(f"its {Path(str(error.filename)).name} is missing") from None
    except Exception as error:  # whatever reading a damaged pickle raises
        raise Damaged(f"it cannot be read: {type(error).__name__}") from None
    if short:
        raise Damaged(f"its {short[0]} was cut short")


def _folders(folder):
    """The folders of checkpoints, the newest first."""
    found = [place for place in folder.glob(f"{PREFIX}*") if place.is_dir() and _number(place) >= 0]
    return sorted(found, key=_number, reverse=True)


def _number(place):
    digits = place.name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else -1


def check(folder: Path, processes: int) -> None:
    """Raises DataError if the checkpoint in a run's folder is one of another number of processes."""
    had_processes = _processes(folder)
    if had_processes and had_processes != processes:
        had = f"{folder}: its checkpoint is of a run on {had_processes} processes"
        why = "sums in another order are another run"
        raise DataError(f"{had}, this one has {processes}; {why}: train it in another folder, or delete {POINTER}", key=None)


def discard(folder: Path) -> None:
    """Remove all checkpoints of a run's folder."""
    (folder / POINTER).unlink(missing_ok=True)
    _clean(folder, [])


def _processes(folder):
    """How many processes wrote the checkpoints in a run's folder; None if there are none, or nothing there says it."""
    if pointed := _pointed(folder):
        return pointed["processes"]
    for place in _folders(folder):
        if (told := _read(place / SUMS)) and isinstance(told.get("processes"), int):
            return told["processes"]
    return None


def _pointed(folder):
    """What POINTER says, or None where there is none or it cannot be read: then the folders speak for themselves."""
    told = _read(folder / POINTER)
    good = told and isinstance(told.get("folder"), str) and isinstance(told.get("processes"), int)
    return told if good and _number(Path(told["folder"])) >= 0 else None


def _read(path):
    """The mapping in a JSON file, or None."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # what is wrong with the folder is said by whoever writes there
        return None
    return found if isinstance(found, dict) else None


def _clean(folder, kept):
    for path in (*folder.glob(f"{PREFIX}*"), *folder.glob(f".{PREFIX}*")):
        if path.name not in kept and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
