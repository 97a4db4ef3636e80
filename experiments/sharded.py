"""A model of which every rank holds a part of each weight (FSDP2), and its checkpoints: folders that all ranks write.

FSDP2 gathers the weights of a module while that module's forward pass runs. So the whole pass of a micro-batch, trunk and
loss, runs as the forward pass of one module, `Root`. It holds what no block holds: embedding, final norm and head. These
are whole from the pass until the end of its backward pass, because a chunked loss uses the head's weight (or the embedding,
where they are tied) without calling a module. Each block is gathered and freed on its own.

A checkpoint is a folder `ckpt-STEP`. It is written beside, under another name, and counts once POINTER names it. So a kill
at any moment leaves the last whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arch.errors import DataError
from arch.model import Model
from experiments import ranks
from experiments.files import flush, write_atomically

POINTER, PREFIX = "checkpoint.json", "ckpt-"


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


def save(trainer: Any, folder: Path) -> None:
    """Write a checkpoint of the trainer's state into the run's folder (the first rank's), then forget the earlier ones."""
    name = f"{PREFIX}{trainer.global_step}"
    scratch = Path(trainer.strategy.broadcast(str(folder / f".{name}.{os.getpid()}")))
    trainer.save_checkpoint(scratch)  # returns when every rank has written its part
    ranks.agreed(lambda: _point(folder, scratch, name, trainer.world_size))


def _point(folder, scratch, name, processes):
    for path in (*scratch.iterdir(), scratch):
        flush(path)
    shutil.rmtree(folder / name, ignore_errors=True)  # of this step, if a process was killed before it moved the pointer
    os.replace(scratch, folder / name)
    flush(folder)
    write_atomically(folder / POINTER, json.dumps({"folder": name, "processes": processes}).encode())
    _clean(folder, name)


def latest(folder: Path) -> Path | None:
    """The folder of the checkpoint that counts, or None."""
    pointed = _pointed(folder)
    return folder / pointed["folder"] if pointed and (folder / pointed["folder"]).is_dir() else None


def step_of(folder: Path) -> int | None:
    """The optimizer step of the checkpoint that counts; None if there is none, or a file of it was cut short."""
    from torch.distributed.checkpoint import FileSystemReader

    try:
        place = latest(folder)
        if place is None:
            return None
        parts: dict[str, int] = {}
        for part in FileSystemReader(place).read_metadata().storage_data.values():
            parts[part.relative_path] = max(parts.get(part.relative_path, 0), part.offset + part.length)
        whole = all((place / name).stat().st_size >= size for name, size in parts.items())
        return int(place.name.removeprefix(PREFIX)) if whole else None
    except Exception:  # whatever reading a damaged pickle raises
        return None


def check(folder: Path, processes: int) -> None:
    """Raises DataError if the checkpoint in a run's folder is one of another number of processes."""
    pointed = _pointed(folder)
    if pointed and pointed["processes"] != processes:
        had = f"{folder}: its checkpoint is of a run on {pointed['processes']} processes"
        why = "sums in another order are another run"
        raise DataError(f"{had}, this one has {processes}; {why}: train it in another folder, or delete {POINTER}", key=None)


def discard(folder: Path) -> None:
    """Remove all checkpoints of a run's folder."""
    (folder / POINTER).unlink(missing_ok=True)
    _clean(folder, None)


def _pointed(folder):
    try:
        return json.loads((folder / POINTER).read_text())
    except (FileNotFoundError, NotADirectoryError):  # what is wrong with the folder is said by whoever writes there
        return None
    except ValueError as error:
        raise DataError(f"{folder / POINTER}: cannot be read: {error}", key=None) from None


def _clean(folder, kept):
    for path in (*folder.glob(f"{PREFIX}*"), *folder.glob(f".{PREFIX}*")):
        if path.name != kept and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
