"""Costs as metrics: exact numbers of a spec; and claims and figures on costs, speed and memory."""

import copy

import pytest

from arch import cost, document, quantised
from arch.errors import SpecError
from experiments.metrics import COSTS
from experiments.plan import resolve
from sweeps import study
from sweeps.costs import cost_metric, exact_cost
from sweeps.metrics import declared, metric_of
from sweeps.study import arm_cost


@pytest.fixture
def resolved(tiny):
    return resolve(tiny)


def test_every_cost_has_the_number_that_the_cost_model_computes(resolved):
    known = arm_cost(resolved, 4096)
    flops = known["flops_per_token"]["ideal"]["train"]
    values = {name: cost_metric(name, resolved, known) for name in COSTS}
    assert values.pop("cost/vector_bytes") is None  # it has no pool
    assert values == {
        "cost/parameters": known["parameters"]["total"],
        "cost/parameters_non_embedding": known["parameters"]["non_embedding"],
        "cost/flops_per_token": flops,
        "cost/train_flops": flops * 12 * 4 * 32,
        "cost/training_memory_bytes": known["training_bytes"]["total"],
        "cost/state_bytes": known["state_bytes"],
        "cost/decode_bytes": known["decode_bytes"],
        "cost/weight_bytes": 4 * known["parameters"]["total"],
    }
    assert all(isinstance(value, float) and value > 0 for value in values.values())


@pytest.mark.parametrize("tokens", [1, 32, 777, 4096])
def test_the_cache_is_that_of_its_context_however_it_is_known(tokens, resolved):
    known = arm_cost(resolved, 4096)
    expected = cost.cache_bytes(resolved.model, tokens)["total"]
    assert cost_metric(f"cost/cache_bytes@{tokens}", resolved, known) == expected
    alone = cost_metric(f"cost/cache_bytes@{tokens}", None, known)  # from the record of a study: what it holds, or nothing
    assert alone == (expected if tokens in (32, 4096) else None)


def test_quantised_weights_count_as_they_are_stored(tiny):
    """In 8 bits with a scale per row; the embedding and what has no role in float32."""
    known = arm_cost(resolve(tiny), 4096)["parameters"]
    tiny["model"]["quantise"] = {"attention": {"type": "sfp8"}, "matrix": {"type": "sfp8"}}
    spec = resolve(tiny)
    rows, values = 0, 0
    for matrices in (quantised.shapes(spec.model)[role] for role in ("attention", "matrix")):
        rows, values = rows + sum(n for n, _ in matrices), values + sum(n * width for n, width in matrices)
    wanted = values + 4 * rows + 4 * (known["total"] - values)
    assert cost_metric("cost/weight_bytes", spec, arm_cost(spec, 4096)) == wanted == exact_cost("cost/weight_bytes", spec)
    assert cost_metric("cost/weight_bytes", None, {"parameters": {"total": 7}}) is None


def test_what_has_no_such_cost_has_none():
    """A model that sees ahead keeps no cache; a record may lack a number."""
    known = {
        "parameters": {"total": 7},
        "long": {"context": 64, "cache_bytes": None},
        "cache_bytes": {"total": None},
        "context": 32,
    }
    assert cost_metric("cost/cache_bytes@64", None, known) is None is cost_metric("cost/cache_bytes@32", None, known)
    assert cost_metric("cost/parameters", None, known) == 7.0 and cost_metric("cost/parameters_non_embedding", None, known) is None
    assert cost_metric("cost/parameters", None, {}) is None is cost_metric("cost/nothing", None, known)


def claimed(study_data, metric):
    return {**study_data, "claims": {"fast": {"type": "against_baseline", "metric": metric}}}


METRICS = ["speed/tokens_per_second", "memory/peak_bytes", "cost/parameters", "cost/cache_bytes@4096", "report/loss"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_claim_may_be_about_speed_memory_or_a_cost(metric, study_data):
    spec, arms = study.check(document.node(claimed(study_data, metric)))
    assert spec.claims["fast"]["metric"] == metric
    assert metric_of(arms[0].spec, metric).better == ("higher" if metric.startswith("speed") else "lower")


@pytest.mark.parametrize(
    "metric, text",
    [
        ("cost/parameter", "no cost 'cost/parameter'; did you mean 'cost/parameters'"),
        ("cost/cache_bytes", "did you mean 'cost/cache_bytes@N'"),
        ("cost/cache_bytes@long", "no cost 'cost/cache_bytes@long'"),
        ("cost/loss", "no cost 'cost/loss'"),
        ("report/tokens_per_second", "has the metric 'report/tokens_per_second'"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_names(metric, text, study_data):
    with pytest.raises(SpecError) as caught:
        study.check(document.node(claimed(study_data, metric)))
    assert caught.value.path == ("claims", "fast", "metric") and text in str(caught.value)
    with pytest.raises(SpecError) as caught:
        study.check(document.node({**study_data, "figures": {"x": ["cost/parameters", metric]}}))
    assert caught.value.path == ("figures", "x", 1) and text in str(caught.value)


def test_a_run_that_trains_nothing_has_no_speed(study_data):
    data = copy.deepcopy(claimed(study_data, "speed/tokens_per_second"))
    data["arms"]["all local"] = {"train.steps": 0}
    with pytest.raises(SpecError, match=r"no run of arm 'all local' has the metric 'speed/tokens_per_second'"):
        study.check(document.node(data))


def test_speed_is_declared_of_what_trains(resolved):
    assert {"speed/tokens_per_second", "memory/peak_bytes", "report/loss"} <= declared(resolved).keys()


def test_the_record_keeps_the_costs_that_claims_and_figures_name(plan_study, study_data):
    data = claimed(study_data, "cost/cache_bytes@64") | {"figures": {"x": ["cost/cache_bytes@128", "speed/tokens_per_second"]}}
    arms = plan_study(data).record().arms
    assert arms["1:1"].costs == {"cost/cache_bytes@64": 64.0, "cost/cache_bytes@128": 128.0}
