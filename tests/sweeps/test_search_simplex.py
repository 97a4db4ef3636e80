"""Mixtures: uniform coordinates are Dirichlet weights, and a search over them keeps weights that together are 1."""

import random

import numpy as np
import pytest
from scipy import stats
from search_cases import done, queue

from arch import document
from arch.errors import SpecError
from experiments import plan as experiment
from sweeps import show
from sweeps import study as studies
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.search import arms, simplex, space

PARTS = ["optimizer.weight_decay", "schedule.warmup", "schedule.final"]  # any three numbers from 0 to 1
MIX = {"mixture": {"simplex": PARTS}}


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
def test_uniform_coordinates_are_dirichlet_weights(concentration):
    """Each weight is Beta(c, (K - 1) c), and their covariances are those of the Dirichlet distribution."""
    draw, parts = np.random.default_rng(0), 4
    drawn = np.array([simplex.weights(u, concentration) for u in draw.uniform(size=(3000, parts - 1))])
    assert np.allclose(drawn.sum(1), 1) and drawn.min() >= 0
    for each in drawn.T:
        assert stats.kstest(each, stats.beta(concentration, (parts - 1) * concentration).cdf).pvalue > 1e-3
    covariance = -1 / (parts**2 * (parts * concentration + 1))
    off = np.cov(drawn.T)[~np.eye(parts, dtype=bool)]
    assert off == pytest.approx(np.full(off.shape, covariance), rel=0.25)


def test_without_concentration_the_quantile_is_that_of_sticks():
    assert simplex.weights([0.5, 0.5], 1.0) == pytest.approx([1 - 0.5**0.5, 0.5**1.5, 0.5**1.5])


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("concentration", [0.5, 1.0, 3.0])
def test_the_map_is_onto_and_is_inverted(parts, concentration):
    draw = random.Random(0)
    for _ in range(50):
        weights = [draw.random() + 1e-3 for _ in range(parts)]
        weights = [each / sum(weights) for each in weights]
        coordinates = simplex.coordinates(weights, concentration)
        assert all(0 <= each <= 1 for each in coordinates)
        assert simplex.weights(coordinates, concentration) == pytest.approx(weights, abs=1e-9)
        there = [draw.uniform(0.05, 0.95) for _ in range(parts - 1)]
        assert simplex.coordinates(simplex.weights(there, concentration), concentration) == pytest.approx(there, abs=1e-6)


def test_what_is_nearly_a_corner_is_one():
    assert simplex.weights([0.0, 1 - 2**-53], 1.0) == simplex.weights([1e-14, 1.0], 1.0) == [0.0, 1.0, 0.0]


def test_the_corners_are_mixtures_too():
    mixture = space.Mixture("m", ("a", "b", "c"), 0.7)
    assert [list(mixture.weights(each).values()) for each in mixture.corners()] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def mixed(searched, **more):
    return searched(space=MIX, **more)


def loss(job):
    """The best mixture is 0.6, 0.3, 0.1."""
    spec = job.plan.spec
    return abs(spec.optimizer.get("weight_decay", 0.0) - 0.6) + abs(spec.schedule.get("warmup", 0.0) - 0.3)


def finish(search):
    while job := search.take():
        done(search, job, loss=loss(job))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "nsgaii", "qmc"])
def test_samplers_of_numbers_search_a_simplex(searched, sampler):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    search = queue(mixed(searched, sampler=sampler, trials=14))
    finish(search)
    for record in search.records():
        assert list(record.values) == PARTS and sum(record.values.values()) == pytest.approx(1)
    stored = search.optuna.trials[0]
    assert set(stored.params) == {"mixture[1]", "mixture[2]"} and stored.user_attrs["weights"] == search.records()[0].values


def test_the_first_trials_are_the_same_dirichlet_draws_in_every_search(searched):
    one, other = (queue(mixed(searched, name=name, sampler=name, trials=10)) for name in ("tpe", "gp"))
    finish(one), finish(other)
    drawn, again = ([list(record.values.values()) for record in search.records()] for search in (one, other))
    assert drawn == again and len({tuple(each) for each in drawn}) == 10
    further = queue(mixed(searched, name="seeded", sampler={"type": "tpe", "seed": 1}, trials=10))
    finish(further)
    assert [list(record.values.values()) for record in further.records()] != drawn


def test_after_its_draws_the_search_comes_nearer(searched):
    search = queue(mixed(searched, sampler={"type": "tpe", "multivariate": True}, trials=40))
    finish(search)
    losses = [record.value for record in search.records()]
    assert np.mean(losses[25:]) < 0.6 * np.mean(losses[:10])
    winner = space.mixed(search.axes, search.values(arms.found(search).winners["best 1"]))
    assert winner == pytest.approx(dict(zip(PARTS, (0.6, 0.3, 0.1), strict=True)), abs=0.15)


def test_given_mixtures_are_tried_first(searched):
    given = {"mixture": {"simplex": PARTS, "first": [[1, 1, 2], [6, 3, 1]]}, "train.steps": {"low": 5, "high": 9, "log": False}}
    search = queue(searched(space=given, trials=4))
    finish(search)
    tried = [[record.values[key] for key in PARTS] for record in search.records()]
    assert tried[0] == pytest.approx([0.25, 0.25, 0.5]) and tried[1] == pytest.approx([0.6, 0.3, 0.1])
    assert len(tried) == 4 and all("train.steps" in record.values for record in search.records())
    assert len(queue(search.study).optuna.trials) == 4, "a second start gives them no second time"


def test_a_search_for_a_mixture_goes_on_where_it_was_killed(searched):
    planned = mixed(searched, trials=4)
    killed = queue(planned)
    first, second = killed.take(), killed.take()
    done(killed, first, loss=loss(first))
    again = queue(planned)
    assert again.take().folder == second.folder and again.values(second.trial) == killed.values(second.trial)
    done(again, second, loss=loss(second))
    finish(again)
    assert [record.state for record in again.records()] == ["finished"] * 4


def test_a_mixture_may_stand_below_a_choice_and_does_not_widen(searched):
    below = {"what": {"choices": {"mixed": {"space": MIX}, "plain": {}}}}
    search = queue(searched(space=below, trials=12, widen=2))
    finish(search)
    assert {len(record.values) for record in search.records()} == {1, 4}
    assert search.ranges == {} and not any("end of" in note for note in arms.found(search).notes)


def test_a_winner_has_the_weights_and_the_report_names_the_parts(searched, console):
    from sweeps_fakes import prepare

    planned = mixed(searched, trials=3)
    assert run_study(planned, 1, console, prepare).complete
    record = StudyRecord.read(planned.folder)
    best = record.search["winners"]["best 1"]
    values = next(trial.values for trial in record.trials if trial.number == best)
    assert {key: record.arms["best 1"].differences[key][1] for key in PARTS} == values
    assert record.search["space"] == {"mixture": {"simplex": PARTS, "concentration": 1.0, "first": []}}


def test_the_preview_says_what_is_mixed(search_data):
    search = {"space": MIX, "minimise": "select/loss", "trials": 3}
    spec, found = studies.check(document.node(search_data | {"search": search}))
    (row,) = show.preview("asked", None, spec, found)["search"]["space"]
    assert row["dimension"] == "mixture" and row["values"].startswith("weights of optimizer.weight_decay, schedule.warmup and")


REFUSED = {
    "expected at least two keys, got 1": {"simplex": PARTS[:1]},
    "schedule.final is named twice": {"simplex": [*PARTS, "schedule.final"]},
    "the arm '1:1' has no schedule.finale; did you mean 'final'": {"simplex": [*PARTS, "schedule.finale"]},
    "model.layers is 3; expected the key of a weight": {"simplex": [*PARTS, "model.layers"]},
    "mixture = schedule.final alone does not fit: optimizer.lr": {"simplex": ["schedule.final", "optimizer.lr"]},
    "greater than 0, got -1": {"simplex": PARTS, "concentration": -1},
    "expected 3 weights, one for each key and one above 0, got 2 weights": {"simplex": PARTS, "first": [[1, 2]]},
    "got weights of 0 alone": {"simplex": PARTS, "first": [[0, 0, 0]]},
    "did you mean 'concentration'": {"simplex": PARTS, "concentrations": 1},
    "'grid' tries every value, and mixture is a mixture": {"simplex": PARTS, "sampler": "grid"},
    "is set by two dimensions at once": {"simplex": PARTS, "beside": {"schedule.final": {"low": 0.1, "high": 1}}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_mixture_that_cannot_be_searched_is_refused(search_data, reason):
    asked = dict(REFUSED[reason])
    sampler, beside = asked.pop("sampler", "tpe"), asked.pop("beside", {})
    search = {"space": {"mixture": asked, **beside}, "minimise": "select/loss", "trials": 3, "sampler": sampler}
    with pytest.raises(SpecError) as caught:
        studies.check(document.node(search_data | {"search": search}))
    assert reason in str(caught.value)


def test_the_weights_of_a_mixture_of_data_are_its_parts():
    parts = {"a": {"type": "docstrings"}, "b": {"type": "docstrings", "names": "masked"}}
    source = {"type": "mix", "parts": {name: {"source": each} for name, each in parts.items()}}
    root = document.overridden(document.load("experiments/tiny_embedding", "experiments"), document.node({"data.source": source}))
    keys = [f"data.source.parts.{name}.weight" for name in parts]
    (axis,) = space.axes(space_of(keys), root, document.node({}))
    spec = experiment.resolve(space.overridden(root, (axis,), {axis.name: 0.25}))
    assert {name: part["weight"] for name, part in spec.data.source["parts"].items()} == {"a": 0.25, "b": 0.75}


def space_of(keys):
    from sweeps.search.spec import Simplex

    return {"mixture": Simplex(simplex=tuple(keys))}
