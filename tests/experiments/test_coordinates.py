"""A coordinate check: what is varied, what is measured, and that it tells a rate that carries over from one that does not."""

import json

import pytest

from arch import document
from arch.errors import SpecError
from experiments import coordinates
from experiments.coordinates import Coordinate, measure, slopes, verdict, widened
from experiments.plan import resolve
from sweeps.coordinates import arm_of, check, widths_of, write


@pytest.fixture
def experiment(tiny):
    """A resolved experiment of two layers on real data, and its document."""
    return resolve(document.node(tiny))


def test_width_is_heads_and_hidden_units_in_proportion(experiment):
    wide = widened(experiment, 2 * experiment.model.dim)
    assert wide.model.blocks["rec"].mixer["blocks"] == 2 * experiment.model.blocks["rec"].mixer["blocks"]
    for name, block in list(experiment.model.blocks.items())[:2]:
        ours, theirs = block.mixer, wide.model.blocks[name].mixer
        assert theirs["heads"] == 2 * ours["heads"] and theirs["head_dim"] == ours["head_dim"]
        assert theirs["window"] == ours["window"]
        assert wide.model.blocks[name].ffn["hidden"] == 2 * block.ffn["hidden"]
    assert wide.model.dim == 2 * experiment.model.dim
    assert widened(experiment, experiment.model.dim) == experiment
    with pytest.raises(SpecError, match=r"width 17: model.blocks.local.mixer.heads = \d+ times .* expected a whole number"):
        widened(experiment, 17)


def planted(power, steps=2):
    """Coordinates whose scale grows as a power of the width after the last step, and is flat before the first."""
    rows = [("ffn", 0), ("ffn", 1), ("logits", None)]
    return [
        Coordinate(
            rate=1.0, scaled_rate=1.0, width=width, step=step, layer=layer, place=place, rms=0.3 * width ** (power * step / steps)
        )
        for width in (32, 64, 128)
        for step in range(steps + 1)
        for place, layer in rows
    ]


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.1, 0.5, 1.0])
def test_slopes_are_the_powers_that_were_planted(power):
    found = slopes(planted(power), 1.0)
    assert [each.name for each in found] == ["ffn of layer 0", "ffn of layer 1", "logits"]
    assert [each.first for each in found] == pytest.approx([0.0] * 3, abs=1e-9)
    assert [each.last for each in found] == pytest.approx([power] * 3, abs=1e-9)
    said = verdict(found, 2)
    assert ("all is flat" in said) == (abs(power) <= coordinates.FLAT)
    assert ("grow with the width" in said) == (power > coordinates.FLAT) == ("does not carry over" in said)
    assert ("fall with the width" in said) == (power < -coordinates.FLAT)


def test_a_rate_that_falls_with_the_width_changes_wide_models_less(experiment):
    """The check sees the rule: with rate ~ 1 / width, the scales after some steps depend less on the width."""
    widths, dim = [16, 64], experiment.model.dim
    flat = measure(experiment, widths, 2, [3e-2], lambda here, base: base.model.dim / here.model.dim)
    same = measure(experiment, widths, 2, [3e-2])
    assert {each.scaled_rate for each in flat} == {3e-2 * dim / width for width in widths}
    assert {each.step for each in same} == {0, 1, 2} and {each.width for each in same} == set(widths)
    at = lambda found, step: [each.rms for each in found if each.step == step]  # noqa: E731
    assert at(same, 0) == at(flat, 0), "before the first step, no rate matters"
    growth = [sum(each.last - each.first for each in slopes(found, 3e-2)) for found in (flat, same)]
    assert growth[0] < growth[1]


def test_the_record_has_what_was_measured(tiny, tmp_path):
    data = check(document.node(tiny), None, [16, 32], 1)
    path = write(data, tmp_path / "out")
    again = json.loads(path.read_text())
    assert again["widths"] == [16, 32] and list(again["rates"]) == [f"{tiny['optimizer']['lr']:g}"]
    measured = {(each["width"], each["step"], each["layer"], each["place"]) for each in again["coordinates"]}
    assert len(measured) == len(again["coordinates"]) and {place for *_, place in measured} == set(coordinates.PLACES)


def test_mistakes_are_one_line(tiny):
    for text, reason in {
        "a,b": "expected whole numbers",
        "32": "expected at least two widths",
        "32,32": "expected at least two",
    }.items():
        with pytest.raises(SpecError, match=reason):
            widths_of(text)
    assert widths_of("64, 32") == [32, 64]
    study = document.node({**tiny, "question": "Is it?", "arms": {"base": {}}})
    with pytest.raises(SpecError, match="no arm 'bas'; did you mean 'base'"):
        arm_of(study, None, "bas")
    with pytest.raises(SpecError, match="it is an experiment"):
        arm_of(document.node(tiny), None, "base")
    assert arm_of(study, None, None)[0] == "base"
