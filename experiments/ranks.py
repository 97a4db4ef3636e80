"""The processes of one run, its ranks: which of them this process is, and what they tell each other.

Whoever starts them says so in the environment, as torchrun does (`experiments.launch` does the same) or as srun does. A run
on one device has one process and no group: then these functions give back at once what they are given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from arch.errors import SpecError
from experiments.orders import ABANDON, PRUNE, STOP
from experiments.spec import TrainSpec

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

# Whoever waits for a rank waits for hours where that rank measures. A rank that dies ends the others by other means: the
# process that started them sees it (`experiments.launch`, torchrun, srun).
PATIENCE = timedelta(days=7)
WORDS = (None, STOP, PRUNE, ABANDON)  # the later ones have the say


class Elsewhere(Exception):
    """Another rank ended the run, and says why."""


def environment(train: TrainSpec) -> Any:
    """Lightning's description of how this process was started, where it is one rank of several; else None.

    Raises SpecError where the ranks are not as many as the spec says.
    """
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if train.processes == 1:
        return None
    started: Any = None
    if TorchElasticEnvironment.detect():
        started = TorchElasticEnvironment()
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        started = SLURMEnvironment()
    if started is None or started.world_size() == train.processes:
        return started
    what = f"{train.processes} processes, but {started.world_size()} were started"
    raise SpecError(f"{_sizes(train)} need {what} by {'srun' if isinstance(started, SLURMEnvironment) else 'torchrun'}", KEY)


KEY = ("train", "devices")


def check_started(train: TrainSpec) -> None:
    """Raises SpecError where somebody else must start the ranks, or started another number of them."""
    if environment(train) is None and train.nodes > 1:
        how = "start this command on each node with `torchrun --nnodes ... --nproc-per-node ...` or with srun"
        raise SpecError(
            f"{train.nodes} nodes, but nothing started this process as one of {train.processes}; {how}", ("train", "nodes")
        )


@contextmanager
def at_its_line(root: Any) -> Iterator[None]:
    """Context manager: a SpecError gets its line of the document `root`."""
    try:
        yield
    except SpecError as error:
        raise root.error(error.reason, error.path) from None


def _sizes(train):
    return f"{train.devices} devices" + (f" on {train.nodes} nodes" if train.nodes > 1 else "")


def number(train: TrainSpec) -> int:
    """Which rank of the run this process is; 0 writes the run's files."""
    started = environment(train)
    return started.global_rank() if started else 0


def connect(trainer: Any) -> None:
    """Join the group of the trainer's ranks. Lightning would do it later, and with little patience."""
    import torch

    if trainer.world_size == 1 or torch.distributed.is_initialized():
        return
    where = trainer.strategy.root_device
    if where.type == "cuda":
        torch.cuda.set_device(where)
    started = trainer.strategy.cluster_environment
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = started.main_address, str(started.main_port)
    torch.distributed.init_process_group(
        "nccl" if where.type == "cuda" else "gloo",
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        timeout=PATIENCE,
        device_id=where if where.type == "cuda" else None,
    )


def disconnect() -> None:
    """Leave the group: what follows is the work of one rank."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def several() -> bool:
    """Whether this process is in a group now."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gathered(value: Value) -> list[Value]:
    """The values of all ranks, in their order."""
    import torch

    if not several():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def agreed(compute: Callable[[], Value]) -> Value:
    """What the first rank computes; the others wait for it. Where it raises, they raise Elsewhere."""
    import torch

    if not several():
        return compute()
    if torch.distributed.get_rank():
        told: list[Any] = [None]
        torch.distributed.broadcast_object_list(told)
        value, error = told[0]
        if error:
            raise Elsewhere(error)
        return value
    try:
        value = compute()
    except BaseException as error:
        torch.distributed.broadcast_object_list([(None, f"{type(error).__name__}: {error}")])
        raise
    torch.distributed.broadcast_object_list([(value, None)])
    return value


def word(mine: str | None, device: Any) -> str | None:
    """The word of `experiments.orders` that any rank was told, so that all of them end at the same step."""
    import torch

    if not several():
        return mine
    known = WORDS.index(mine) if mine in WORDS else WORDS.index(STOP if mine else None)
    told = torch.tensor(known, device=device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return WORDS[int(told)]


def stacked(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, all of one shape, one after another along their first dimension; without a gradient."""
    import torch

    if not several():
        return tensor.detach()
    every = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(every, tensor.detach().contiguous())
    return torch.cat(every)


def share(rows: int) -> slice:
    """Where the rows of this rank are in what `stacked` returns for tensors of so many rows."""
    import torch

    first = torch.distributed.get_rank() * rows if several() else 0
    return slice(first, first + rows)


def most(value: float | None) -> float | None:
    """The largest of the ranks' values; None where one has none."""
    every = gathered(value)
    return None if None in every else max(every)  # type: ignore[type-var]


def own_seed() -> None:
    """Give every rank but the first random numbers of its own: noise in a model must not be the same in all shares of a batch."""
    import torch

    if not several() or not torch.distributed.get_rank():
        return
    import random

    import numpy

    mix = numpy.random.SeedSequence([torch.initial_seed() % 2**63, torch.distributed.get_rank()]).generate_state(3)
    torch.manual_seed(int(mix[0]))
    numpy.random.seed(int(mix[1]))
    random.seed(int(mix[2]))
