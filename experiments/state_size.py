"""What the tensors of a state hold, in bytes."""

from typing import Any

from arch import cost
from arch.model import Model


def held(state: Any) -> tuple[int, int]:
    """(bytes of the tensors of a state, bytes of the memory behind them, in which a view keeps more alive than it shows)."""
    kept = {id(tensor): tensor for tensor in cost.tensors(state)}.values()
    behind = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(tensor.nbytes for tensor in kept), sum(behind.values())


def foreseen(model: Model, length: int) -> int | None:
    """Bytes of the state of one stream of `length` tokens, by `arch.cost`; None for a type that it does not know."""
    dtype = str(model.embedding.dtype).removeprefix("torch.")
    return cost.cache_bytes(model.spec, length, dtype)["total"] if dtype in cost.DTYPES else None


def each(total: int, streams: int) -> int | float:
    """A number of bytes per stream, whole where it can be."""
    return total // streams if total % streams == 0 else total / streams
