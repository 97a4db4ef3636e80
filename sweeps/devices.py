"""Which worker gets which GPUs: a worker, and the ranks that it starts, see only the devices that it was handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from arch.errors import SpecError
from arch.words import times
from experiments import gpus
from experiments.gpus import VARIABLE, Device


def of_study(
    arms: Iterable[Any], jobs: Iterable[Any], say: Callable[[str], None], devices: Sequence[Device] | None = None
) -> Handing | None:
    """What a study's workers are handed; None where no run is for a GPU. Raises SpecError where a run wants more than there are.

    arms: the ArmPlans, which know their lines. say: called with a sentence for each device that is left out, because other
    jobs leave too little of its memory.
    """
    for each in arms:
        if devices is None:
            gpus.check_there(each.arm.spec.train, each.arm.document.error)
    on_gpus = [job for job in jobs if job.plan.spec.train.accelerator == "gpu"]
    if not on_gpus:
        return None
    devices = gpus.visible() if devices is None else devices
    for each in arms:
        gpus.check(each.arm.spec.train, devices, each.arm.document.error)
    for job in on_gpus:
        gpus.check(job.plan.spec.train, devices)
    needed = max(gpus.needed(job.plan) for job in on_gpus)
    kept, lines = gpus.usable(devices, needed)
    for line in lines:
        say(line)
    for job in on_gpus:
        if job.plan.spec.train.devices > len(kept):
            free = times(len(kept), "GPU") if kept else "no GPU"
            need = times(job.plan.spec.train.devices, "GPU")
            raise SpecError(f"{need} for a run, but {free} of {len(devices)} has enough free memory: {'; '.join(lines)}")
    return Handing(kept)


class Handing:
    """Which devices are free. `take` and `give` are the only changes."""

    def __init__(self, devices: Iterable[Device]):
        self.devices = list(devices)
        self.free = list(self.devices)

    def runs(self, each: int) -> int:
        """How many runs of `each` devices fit at once."""
        return len(self.devices) // each

    def take(self, count: int) -> list[Device]:
        """So many free devices, which are then not free. Raises ValueError where fewer are."""
        if count > len(self.free):
            raise ValueError(f"{count} devices wanted, {len(self.free)} are free")
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def give(self, devices: Iterable[Device]) -> None:
        """These are free again."""
        given = list(devices)
        self.free = [each for each in self.devices if each in self.free or each in given]


def variables(devices: Sequence[Device]) -> dict[str, str]:
    """The environment of a worker that may use these devices and no others."""
    return {VARIABLE: ",".join(each.number for each in devices)} if devices else {}
