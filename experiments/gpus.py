"""The GPUs of this machine that this process may use, and how much memory of each is free.

Nothing here initialises CUDA, which would take memory of a GPU: what is known comes from `nvidia-smi`, from torch's count where
that program is missing, and from $CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arch import units
from arch.errors import SpecError
from arch.words import times

VARIABLE = "CUDA_VISIBLE_DEVICES"
QUERY = ("index", "uuid", "name", "memory.total", "memory.free")


@dataclass(frozen=True)
class Device:
    """A GPU. number: as $CUDA_VISIBLE_DEVICES counts them. total, free: bytes; None where nobody says."""

    number: str
    uuid: str = ""
    name: str = ""
    total: int | None = None
    free: int | None = None


def visible(query: Callable[[], str] | None = None, allowed: str | None = None) -> list[Device]:
    """The GPUs that this process may use. query: gives what `nvidia-smi` says. allowed: $CUDA_VISIBLE_DEVICES, None: all."""
    allowed = os.environ.get(VARIABLE) if allowed is None else allowed
    every = _parsed((query or _asked)())
    if query is None and not _built():
        return []
    if not every:
        return _counted(allowed) if query is None else []
    if allowed is None:
        return every
    by_name = {name: each for each in every for name in (each.number, each.uuid)}
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    # What a driver does: everything after the first device that is not there is not there either.
    found = []
    for name in names:
        if name not in by_name:
            break
        found.append(by_name[name])
    return found


def _built():
    """Whether this torch can use a GPU at all."""
    import torch

    return bool(torch.version.cuda or torch.version.hip)


def _asked():
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _counted(allowed):
    import torch

    names = [str(i) for i in range(torch.cuda.device_count())] if allowed is None else allowed.split(",")
    return [Device(name.strip()) for name in names[: torch.cuda.device_count()]]


def _parsed(text):
    devices = []
    for line in text.splitlines():
        number, uuid, name, total, free = (part.strip() for part in line.split(","))
        size = lambda mebibytes: int(mebibytes) << 20 if mebibytes.isdigit() else None  # noqa: E731
        devices.append(Device(number, uuid, name, size(total), size(free)))
    return devices


def usable(devices: Sequence[Device], wanted: float) -> tuple[list[Device], list[str]]:
    """(the devices with so many free bytes, a sentence for each of the others). What is not known is not held against one."""
    kept, lines = [], []
    for each in devices:
        if each.free is not None and each.free < wanted:
            has = (
                f"{units.size(each.free)} of {units.size(each.total)} are free"
                if each.total
                else f"{units.size(each.free)} are free"
            )
            lines.append(f"GPU {each.number} is left out: {has}, a run needs about {units.size(wanted)}")
        else:
            kept.append(each)
    return kept, lines


def check(train: Any, devices: Sequence[Device], where: Callable[..., SpecError] = SpecError) -> None:
    """Raises SpecError for a TrainSpec that wants more GPUs than this machine has. where: makes the error of a document."""
    if train.accelerator == "gpu" and train.devices > len(devices):
        has = times(len(devices), "GPU") if devices else "no GPU"
        key = ("train", "devices" if devices else "accelerator")
        raise where(f"{times(train.devices, 'GPU')} for a run, but this machine has {has}", key)


def check_there(train: Any, where: Callable[..., SpecError] = SpecError) -> None:
    """Raises SpecError for a TrainSpec whose accelerator this machine does not have. where: makes the error of a document."""
    import torch

    if train.accelerator == "gpu":
        if not _built():
            what = times(train.devices, "GPU")
            reason = f"{what} for a run, but this machine has none that torch can use: it was built without CUDA"
            raise where(reason, ("train", "accelerator"))
        check(train, visible(), where)
    there = {"mps": torch.backends.mps.is_available(), "tpu": importlib.util.find_spec("torch_xla") is not None}
    if not there.get(train.accelerator, True):
        raise where(f"{train.accelerator} for a run, but this machine has none that torch can use", ("train", "accelerator"))


def needed(plan: Any) -> float:
    """The bytes that a RunPlan's training needs on each of its devices, as far as `arch.cost` says."""
    train, parts = plan.spec.train, dict(plan.cost.get("training_bytes", {}))
    total, activations = float(parts.get("total") or 0), float(parts.get("activations") or 0) + float(parts.get("images") or 0)
    rows = plan.spec.data.rows / (train.accumulate * train.shares)
    return (total - activations) / (train.processes if train.sharded else 1) + activations * rows
