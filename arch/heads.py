"""The heads of an attention: what its options leave out, and whether they fit. Shared by mixers and crosses."""

from typing import Any


def multi_head(data: Any) -> Any:
    """Options, before they are checked, in which `kv_heads` is the number of `heads` where it is not said."""
    if isinstance(data, dict) and data.get("kv_heads") is None and type(data.get("heads")) is int:
        return {**data, "kv_heads": data["heads"]}
    return data


def check(heads: int, kv_heads: int) -> None:
    """Raises ValueError for query heads that key/value heads cannot share evenly."""
    if heads % kv_heads:
        raise ValueError(f"kv_heads: {kv_heads} does not divide heads = {heads}")


def channels(config: Any, dim: int) -> int:
    """C, the channels of a head in a model of width `dim`: `head_dim`, by default dim / heads. Raises ValueError."""
    if config.head_dim is None and dim % config.heads:
        raise ValueError(f"heads: {config.heads} does not divide dim = {dim}; give head_dim")
    return config.head_dim or dim // config.heads


def written_out(config: Any, dim: int) -> Any:
    """The options with `head_dim` and `query_scale` as they are in a model of width `dim`."""
    size = config.head_dim or dim // config.heads
    return config.model_copy(update={"head_dim": size, "query_scale": config.query_scale or size**-0.5})
