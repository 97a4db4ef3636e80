"""Every component passes the battery of `arch.probe`, for every example of its Config, bit for bit where it can.

To run them only for your own component: `ARCHBENCH_MIXERS=my_package.my_mixer pytest tests/arch/test_battery.py`, or
`archbench check my_package.my_mixer`, which needs no pytest. ARCHBENCH_FFNS, _POOLS, _CROSSES and _QUANTISERS do the same.
Separate names by commas.
"""

import functools
import json
import os

import pytest
from tiny_specs import context, examples, label

from arch import probe, registry


def named(kind, variable):
    names = os.environ.get(variable)
    if any(f"ARCHBENCH_{kind}" in os.environ for kind in ("MIXERS", "FFNS", "POOLS", "CROSSES", "QUANTISERS")):
        return names.split(",") if names else []
    return registry.names(kind)


MIXERS = examples("mixer", named("mixer", "ARCHBENCH_MIXERS"))
FFNS = examples("ffn", named("ffn", "ARCHBENCH_FFNS"))
POOLS = examples("pool", named("pool", "ARCHBENCH_POOLS"))
CROSSES = examples("cross", named("cross", "ARCHBENCH_CROSSES"))
QUANTISERS = examples("quantiser", named("quantiser", "ARCHBENCH_QUANTISERS"))


@functools.cache
def subject(kind, resolved):
    return probe.subject(kind, json.loads(resolved), context(), rounding=0.0, close=1e-4)


def points(kind):
    return pytest.mark.parametrize("point", probe.battery(kind), ids=lambda point: point.check.__name__)


def passes(kind, component, point):
    finding = probe.found(subject(kind, json.dumps(component)), point)
    assert not finding.failure, f"{component['type']} {finding.failure}"
    if finding.unasked:
        pytest.skip(f"{component['type']}: {finding.unasked}")


@pytest.mark.parametrize("component", MIXERS, ids=label)
@points("mixer")
def test_a_mixer_does_what_it_says(component, point):
    passes("mixer", component, point)


@pytest.mark.parametrize("component", FFNS, ids=label)
@points("ffn")
def test_an_ffn_does_what_it_says(component, point):
    passes("ffn", component, point)


@pytest.mark.parametrize("component", POOLS, ids=label)
@points("pool")
def test_a_pool_does_what_it_says(component, point):
    passes("pool", component, point)


@pytest.mark.parametrize("component", CROSSES, ids=label)
@points("cross")
def test_a_cross_does_what_it_says(component, point):
    passes("cross", component, point)


@pytest.mark.parametrize("component", QUANTISERS, ids=label)
@points("quantiser")
def test_a_quantiser_does_what_it_says(component, point):
    passes("quantiser", component, point)


def test_the_battery_has_something_to_test():
    assert MIXERS or FFNS or POOLS or CROSSES or QUANTISERS
