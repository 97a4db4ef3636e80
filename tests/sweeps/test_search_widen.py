"""A range whose best lies at an end grows, and says so."""

import pytest
from search_cases import done, queue

from arch import document
from arch.errors import SpecError
from sweeps import study as studies
from sweeps.search import arms, widen
from sweeps.search.spec import Numbers

RATE = {"optimizer.lr": {"low": 1e-3, "high": 4e-3}}


def finish(search):
    while job := search.take():
        done(search, job, loss=loss(job))


def loss(job):
    """The higher the rate, the better, up to 2e-2."""
    return abs(job.plan.spec.optimizer["lr"] - 2e-2)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_range_whose_best_is_at_an_end_grows_and_the_growth_is_said(searched, sampler):
    search = queue(searched(space=RATE, widen=2, trials=40, sampler=sampler))
    finish(search)
    span = search.ranges["optimizer.lr"]
    assert span.low == 1e-3 and span.high in (8e-3, 16e-3, 32e-3)
    tried = [record.values["optimizer.lr"] for record in search.records()]
    assert max(tried[:10]) <= 4e-3 < max(tried) <= span.high
    result = arms.found(search)
    assert result.notes[0] == f"the range of optimizer.lr grew from 0.001 to 0.004 to 0.001 to {span.high:g}"
    assert arms.facts(search, result)["widened"] == {"optimizer.lr": [1e-3, span.high]}
    assert search.values(result.winners["best 1"])["optimizer.lr"] == max(tried, key=lambda rate: -abs(rate - 2e-2))
    assert queue(search.study).ranges == search.ranges, "it is kept in storage"


def test_a_range_whose_best_is_inside_stays(searched):
    search = queue(searched(space={"optimizer.lr": {"low": 1e-3, "high": 4e-1}}, widen=2, trials=16, sampler="tpe"))
    finish(search)
    assert search.ranges == {} and arms.found(search).notes == ()


def test_an_end_that_the_experiment_refuses_to_pass_stays(searched):
    warmup = {"schedule.warmup": {"low": 0.1, "high": 1.0, "log": False}}
    search = queue(searched(space=warmup, widen=2, trials=8))
    best = {"schedule.warmup": 0.99}
    assert widen.grown(search.base.arm.document, search.axes, best, 2.0, {}) == {}
    low = widen.grown(search.base.arm.document, search.axes, {"schedule.warmup": 0.11}, 1.1, {})
    assert low == {"schedule.warmup": [pytest.approx(0.01), 1.0]}


@pytest.mark.parametrize(
    ("span", "value", "end"),
    [
        (Numbers(low=1e-3, high=1e-1), 1e-3, "low"),
        (Numbers(low=1e-3, high=1e-1), 9.5e-2, "high"),
        (Numbers(low=1e-3, high=1e-1), 1e-2, None),
        (Numbers(low=0, high=100, log=False), 96, "high"),
        (Numbers(low=0, high=100, log=False), 94, None),
    ],
)
def test_the_ends_of_a_range_are_measured_on_its_scale(span, value, end):
    assert widen.end_of(span, value) == end


def test_a_search_with_several_objectives_does_not_widen(search_data):
    search = {"space": RATE, "minimise": ["select/loss", "cost/parameters"], "trials": 4, "widen": 2}
    with pytest.raises(SpecError, match="along the front"):
        studies.check(document.node(search_data | {"search": search}))
