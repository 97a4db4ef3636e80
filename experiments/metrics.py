"""What metrics are: those of next-token prediction, of a run's speed and memory, and of a spec's cost.

A component declares the metrics that it measures, and a run's record says what they are. The tables here are for the
rest, and for records that were written before records said so.
"""

from collections.abc import Mapping

from arch import units
from arch.contracts import Metric
from arch.errors import nearest

NEXT_TOKEN = {
    "loss": Metric(unit="nats per token", compare="log", exponential="perplexity"),
    "perplexity": Metric(compare="ratio"),
    "bits_per_byte": Metric(unit="bits per byte", compare="ratio", any_tokenizer=True),
    "accuracy": Metric(better="higher", compare="difference"),
}

# What every run that trains measures of itself (`experiments.watch`, `experiments.memory`). It depends on the machine and
# its load.
OF_RUNS = {
    "speed/tokens_per_second": Metric(unit="tokens/s", better="higher", compare="ratio", varies="machine"),
    "memory/peak_bytes": Metric(unit="B", compare="ratio", any_tokenizer=True),
}

# What `arch.cost` computes of a spec: exact numbers, the same for every seed (`sweeps.costs`). training_memory_bytes:
# weights, gradients, optimizer and the activations of one row. state_bytes: what a stream keeps of earlier tokens where that
# does not grow with them; 0 for attention, so it is compared by difference. decode_bytes: what one stream reads for the next
# token, every weight and its whole cache, after a row of the training context, or after N tokens (`cost/decode_bytes@N`).
# cache_bytes@N: of one stream of N tokens. cache_over_weights@N: that over the bytes of all weights, both in one type.
# weight_bytes: of all weights as they are stored, packed where they are quantised and in float32 where not.
# vector_bytes: what an encoder keeps of a text, its vector in float32 before any quantisation; a model without a pool has none.
COSTS = {
    "cost/parameters": Metric(unit="parameters", compare="ratio"),
    "cost/parameters_non_embedding": Metric(unit="parameters", compare="ratio"),
    "cost/flops_per_token": Metric(unit="FLOP per token", compare="ratio"),
    "cost/train_flops": Metric(unit="FLOP", compare="ratio"),
    "cost/training_memory_bytes": Metric(unit="B", compare="ratio"),
    "cost/state_bytes": Metric(unit="B"),
    "cost/decode_bytes": Metric(unit="B", compare="ratio"),
    "cost/vector_bytes": Metric(unit="B", compare="ratio"),
    "cost/weight_bytes": Metric(unit="B", compare="ratio"),
}
CACHE, DECODE, OVER_WEIGHTS = "cost/cache_bytes", "cost/decode_bytes", "cost/cache_over_weights"
AT_CONTEXT = (CACHE, DECODE, OVER_WEIGHTS)
# Other names of costs: {name: the name that records and tables have}.
OTHER_NAMES = {"cost/non_embedding": "cost/parameters_non_embedding", "cost/flops": "cost/flops_per_token"}

# FLOPs that the mathematics needs (`arch.cost`), and those that a machine computes, which time and bills go by.
IDEAL, IDEAL_OF_RUN, EXECUTED = "training FLOPs per token (ideal)", "training FLOPs (ideal)", "training FLOPs (executed)"

TITLES = {
    "speed/tokens_per_second": "training speed",
    "memory/peak_bytes": "peak memory",
    "cost/parameters": "parameters",
    "cost/parameters_non_embedding": "parameters without embedding",
    "cost/flops_per_token": IDEAL,
    "cost/train_flops": IDEAL_OF_RUN,
    "cost/training_memory_bytes": "memory of training one row",
    "cost/state_bytes": "constant state",
    "cost/decode_bytes": "bytes read per decoded token",
    "cost/vector_bytes": "vector of one text",
    "cost/weight_bytes": "weights as they are stored",
}


def known(name: str) -> Metric | None:
    """What a metric named SPLIT/METRIC is if nobody declares it, or None."""
    if is_cost(name):
        return cost(name)
    return OF_RUNS.get(name) or NEXT_TOKEN.get(name.rpartition("/")[2])


def is_cost(name: str) -> bool:
    """Whether a metric is a cost of the spec, `cost/...`, and not measured."""
    return name.startswith("cost/")


def is_measured_once(name: str) -> bool:
    """Whether a metric is of no split: a cost, or the speed or the memory of a run."""
    return is_cost(name) or name in OF_RUNS


def cost(name: str) -> Metric | None:
    """What a cost is: one of COSTS, or one of AT_CONTEXT at a number of tokens (`cost/cache_bytes@N`); None for any other name."""
    name = canonical(name)
    unit = "" if name.startswith(OVER_WEIGHTS) else "B"
    return COSTS.get(name) or (Metric(unit=unit, compare="ratio") if context_of(name) else None)


def canonical(name: str) -> str:
    """The name of a metric in records and tables: `cost/flops` is `cost/flops_per_token`."""
    return OTHER_NAMES.get(name, name)


def context_of(name: str) -> int | None:
    """The N of one of AT_CONTEXT (`cost/cache_bytes@N`), tokens of at least 1; None for any other name."""
    start, at, number = name.partition("@")
    tokens = int(number) if start in AT_CONTEXT and at and number.isascii() and number.isdecimal() else 0
    return tokens or None


def unknown_cost(name: str) -> str:
    """The reason to refuse a cost that does not exist, with the nearest names."""
    return f"no cost {name!r}{nearest(name, [*COSTS, *(f'{start}@N' for start in AT_CONTEXT)])} (N is a number of tokens)"


def objective_costs(added: Mapping[str, float]) -> str:
    """What an objective adds to the model's own step (`Objective.costs`), in words."""
    return ", ".join(_objective_cost(name, value) for name, value in added.items())


def _objective_cost(name: str, value: float) -> str:
    """One of an objective's costs (`Objective.costs`) in words: `flops` as 1.2 TFLOP, `disk_bytes` as a cache of 3 MB."""
    words = name.replace("_", " ")
    if name == "image_flops":
        return f"of which {units.flops(value)} for images"
    if name.endswith("flops"):
        return units.flops(value)
    if name == "disk_bytes":
        return f"a cache of {units.size(value)} on disk"
    if name.endswith("bytes"):
        return f"{units.size(value)} of {words.removesuffix(' bytes')}"
    if name.endswith("seconds"):
        return f"about {units.duration(value)}"
    return f"{units.flops(value)} of {words.replace(' flops', '')}" if "flops" in name else f"{units.count(value)} {words}"


def title(name: str) -> str | None:
    """How a metric is called where there is room for words; None where its own name is best."""
    tokens = context_of(name)
    if tokens is None:
        return TITLES.get(canonical(name))
    what = TITLES[DECODE] if name.startswith(DECODE) else "cache over weights" if name.startswith(OVER_WEIGHTS) else "cache"
    return f"{what} at {tokens:,}\N{NO-BREAK SPACE}tokens"
