"""A model that says it is causal is asked again with the weights that training gave it, on rows of its data."""

import pytest

from arch import probe_model
from arch.document import assignments, node, overridden
from experiments import plan
from experiments.train import train


def planned(tiny, mixer, *changes):
    """The plan of a tiny run of one block."""
    model = {**tiny["model"], "pattern": ["mine"], "layers": 2}
    model["blocks"] = {"mine": {"mixer": mixer, "ffn": {"type": "gated", "hidden": 24}}}
    return plan.plan(overridden(node({**tiny, "model": model}), assignments(list(changes))))


def test_a_mixer_that_looks_ahead_once_its_weights_have_moved_fails_its_run(tiny, plugins, tmp_path):
    record = train(planned(tiny, {"type": "own_cheats:Later"}), 0, tmp_path / "run")
    assert record.status == "failed" and record.failure.error == "NotCausal" and not record.failure.machine
    assert record.failure.step == 12 and not record.metrics
    words = record.failure.message.split()
    assert record.failure.message.startswith("says causal, but with its trained weights token ")
    assert int(words[words.index("token") + 1]) - int(words[-1]) in (1, 2)  # two layers look ahead by one each
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("steps", [0, 12])
def test_an_honest_run_is_as_it_was_without_the_question(steps, tiny, plugins, tmp_path, monkeypatch):
    measured = []
    for checked in (True, False):
        if not checked:
            monkeypatch.setattr(probe_model, "check_trained", lambda *given: None)
        complete = planned(tiny, {"type": "own_cheats:Later", "honest": True}, f"train.steps={steps}")
        record = train(complete, 0, tmp_path / str(checked))
        assert record.status == "finished", record.failure
        measured.append((record.metrics, record.sample))
    assert measured[0] == measured[1]


def test_models_of_shipped_parts_that_differ_in_numbers_are_asked_once(tiny, plugins, monkeypatch, tmp_path):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "empty"))
    asked = []
    monkeypatch.setattr(probe_model, "check_causal", lambda spec, *about: asked.append(spec) or [])
    attention = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "window": 4}
    for window in (4, 5, 7):
        planned(tiny, {**attention, "window": window})
    assert len(asked) == 1
    planned(tiny, {**attention, "window": None})  # another kind of value
    assert len(asked) == 2
    planned(tiny, {**attention, "window": 4}, "model.layers=3")
    assert len(asked) == 3
    for hidden in (20, 28):  # with a user's own component, with exactly its numbers
        planned(tiny, {"type": "own_cheats:Later", "honest": True}, f"model.blocks.mine.ffn.hidden={hidden}")
    assert len(asked) == 5
