"""The costs of a spec as metrics, `cost/NAME`: exact numbers, known before any run, the same for every seed."""

from collections.abc import Mapping
from typing import Any

from experiments.metrics import COSTS, DECODE, OVER_WEIGHTS, canonical, context_of, is_cost
from experiments.spec import ExperimentSpec
from sweeps.judge import metrics_of
from sweeps.spec import StudySpec

# Where each cost lies in what `arch.cost.summary` computes.
PLACES = {
    "cost/parameters": ("parameters", "total"),
    "cost/parameters_non_embedding": ("parameters", "non_embedding"),
    "cost/flops_per_token": ("flops_per_token", "ideal", "train"),
    "cost/train_flops": ("flops_per_token", "ideal", "train"),
    "cost/training_memory_bytes": ("training_bytes", "total"),
    "cost/state_bytes": ("state_bytes",),
    "cost/decode_bytes": ("decode_bytes",),
    "cost/vector_bytes": ("vector_bytes",),
    "cost/weight_bytes": ("weight_bytes",),
}
# Costs that only running every block on the meta device shows; the others follow from shapes.
SLOW = ("cost/training_memory_bytes",)
assert PLACES.keys() == COSTS.keys()


def cost_metric(name: str, spec: ExperimentSpec | None, cost: Mapping[str, Any]) -> float | None:
    """The value of a cost (`experiments.metrics.cost`) of a resolved experiment; None where it has none.

    A model that sees ahead or has a pool keeps no cache, and only one with a pool has a vector. cost: what `arch.cost.summary`
    computed of the spec, if it has the key `long` (`sweeps.study.arm_cost`) also at that context. What it lacks, a cache at
    another context or a cost that older records do not have, is computed here, which imports torch. spec: None where only
    `cost` is known; what needs more is None then.
    FLOPs are the ideal ones: per token trained, and of all tokens of the run with what the objective adds (a teacher's
    forward passes).
    """
    name = canonical(name)
    tokens = context_of(name)
    if tokens is not None:
        over_weights = _over_weights if name.startswith(OVER_WEIGHTS) else _cache
        return _number((_decode if name.startswith(DECODE) else over_weights)(tokens, spec, cost))
    if name not in PLACES:
        return None
    if name == "cost/weight_bytes":
        return _number(_weights(spec, cost))
    value = _at(cost, PLACES[name])
    if value is None and spec is not None and name not in SLOW and PLACES[name][0] not in cost:
        value = _at(_outline(spec, spec.data.context), PLACES[name])
    if name == "cost/train_flops":
        value = None if value is None or spec is None else value * spec.tokens + cost.get("objective", {}).get("flops", 0.0)
    return _number(value)


def costs_of(study: StudySpec, spec: ExperimentSpec, cost: Mapping[str, Any]) -> dict[str, float]:
    """{`cost/NAME`: value} of the costs that a study's claims and figures name or draw, for an arm that has them."""
    claimed = [name for names in metrics_of(study).values() for name in names]
    drawn = ("cost/train_flops",) if study.ladder else ()
    values = {name: cost_metric(name, spec, cost) for name in (*claimed, *study.figures.x, *drawn) if is_cost(name)}
    return {name: value for name, value in values.items() if value is not None}


def _cache(tokens, spec, cost):
    """Bytes of the cache of one stream of `tokens` tokens."""
    if _at(cost, ("long", "context")) == tokens:
        return _at(cost, ("long", "cache_bytes"))
    if cost.get("context") == tokens:
        return _at(cost, ("cache_bytes", "total"))
    if spec is None:
        return None
    from arch.cost import cache_bytes

    return cache_bytes(spec.model, tokens)["total"]


# `_cache` and weights that are not quantised are counted in float32.
SIZE = 4


def _over_weights(tokens, spec, cost):
    """The cache of one stream of `tokens` tokens over the weights."""
    cache, parameters = _cache(tokens, spec, cost), cost_metric("cost/parameters", spec, cost)
    return None if cache is None or parameters is None else cache / (SIZE * parameters)


def _weights(spec, cost):
    """Bytes of all weights, packed where the model quantises them."""
    if spec is None:  # the cost alone does not say what is quantised
        return None
    if spec.model.quantise is None:
        parameters = cost_metric("cost/parameters", spec, cost)
        return None if parameters is None else SIZE * parameters
    from arch import packed

    return packed.total(packed.weights(spec.model, spec.model.quantise.roles(), "float32"))


def _decode(tokens, spec, cost):
    """Bytes that one stream reads for the token after `tokens` tokens."""
    if cost.get("context") == tokens and "decode_bytes" in cost:
        return cost["decode_bytes"]
    return None if spec is None else _at(_outline(spec, tokens), ("decode_bytes",))


def _outline(spec, tokens):
    from arch.cost import outline

    return outline(spec.model, tokens)


def exact_cost(name: str, spec: ExperimentSpec, objective: Mapping[str, float] | None = None) -> float | None:
    """The value of a cost of a resolved experiment, from scratch; runs no block unless the cost needs it (SLOW).

    objective: what the objective adds (`experiments.references.costs`). Imports torch.
    """
    from arch.cost import summary

    if context_of(canonical(name)) is not None:
        return cost_metric(name, spec, {})
    cost = summary(spec.model, spec.data.context) if canonical(name) in SLOW else _outline(spec, spec.data.context)
    return cost_metric(name, spec, {**cost, "objective": dict(objective or {})})


def _at(cost, path):
    for key in path:
        cost = cost.get(key) if isinstance(cost, Mapping) else None
    return cost


def _number(value):
    return None if value is None else float(value)
