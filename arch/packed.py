"""How many bytes a model takes, by format: its weights packed by quantisers, its cache in 32, 16 or 8 bits. Exact, from shapes.

"Packed" is what `Quantiser.pack` gives, scales included. What has no role (norms, biases, what decides how a state decays), and
roles without a quantiser, count in the float type that is said.
"""

from collections.abc import Mapping
from typing import Any

from arch import cost, registry
from arch.model_spec import ModelSpec
from arch.quantised import shapes

FLOATS = ("float32", "bfloat16")


def weights(spec: ModelSpec, formats: Mapping[str, Any], dtype: str = "bfloat16") -> dict[str, dict[str, Any]]:
    """{role: {format, parameters, bytes, bits}} of a model's weights; the role of those that have none is `other`.

    formats: {role: resolved quantiser}, such as `spec.quantise.roles()`. dtype: of all that has no quantiser. bits: a weight.
    Raises ValueError, `ROLE: reason`, for a width that a format cannot hold.
    """
    size, found = cost.DTYPES[dtype].itemsize, {}
    for name, each in shapes(spec).items():
        count = sum(rows * width for rows, width in each)
        if not count:
            continue
        if name in formats:
            quantiser, kind = registry.build("quantiser", formats[name]), formats[name]["type"]
            for _, width in each:
                if width % quantiser.multiple:
                    raise ValueError(f"{name}: {kind} needs rows of a multiple of {quantiser.multiple} values, not {width:,}")
            packed = sum(quantiser.bytes(rows, width) for rows, width in each)
        else:
            kind, packed = dtype, count * size
        found[name or "other"] = {"format": kind, "parameters": count, "bytes": packed, "bits": 8 * packed / count}
    return found


def total(packed: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes of all weights."""
    return sum(each["bytes"] for each in packed.values())


def memory(spec: ModelSpec, context: int, dtype: str = "bfloat16") -> dict[str, Any]:
    """What a resolved ModelSpec with `quantise` takes at a context of N tokens, as plain data.

    weights: as `weights` gives them, what has no quantiser in `dtype`. weight_bytes: {format: all weights}, of the floats and of
    `packed`. cache_bytes: of one stream: of the floats and with `8 bits` for each number that a layer keeps in the model's type,
    without the scales that a format may add; None where the model keeps no cache. activation_bytes: {float: what the backward
    pass of one row keeps}.
    """
    packed = weights(spec, spec.quantise.roles() if spec.quantise else {}, dtype)
    count = sum(each["parameters"] for each in packed.values())
    caches = {name: cost.cache_bytes(spec, context, name)["total"] for name in FLOATS}
    if None not in caches.values():
        numbers = (caches["float32"] - caches["bfloat16"]) // 2  # those that are kept in the model's type
        caches["8 bits"] = caches["bfloat16"] - numbers
    return {
        "context": context,
        "weights": packed,
        "weight_bytes": {name: count * cost.DTYPES[name].itemsize for name in FLOATS} | {"packed": total(packed)},
        "cache_bytes": caches,
        "activation_bytes": {name: cost.summary(spec, context, name)["training_bytes"]["activations"] for name in FLOATS},
    }
