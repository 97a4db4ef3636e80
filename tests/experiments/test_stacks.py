"""Between one stack and two: what starts from what, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file
from test_start import first_weights
from test_ul2 import tiny

from arch import document
from arch.errors import SpecError
from experiments.plan import plan
from experiments.train import train

SELF = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "qk_norm": True}
BLOCK = {"mixer": {**SELF, "window": 4}, "ffn": {"type": "gated", "hidden": 16}, "norm": "sandwich"}
AHEAD = {**BLOCK, "mixer": {**SELF, "causal": False}}


def one_stack(**changes):
    """The experiment of a model of one stack with the shapes of the tiny encoder-decoder's."""
    base = tiny(objective={"type": "next_token"})
    model = {"dim": 16, "vocab_size": 340, "layers": 2, "pattern": ["local"], "embed_scale": "sqrt_dim", "blocks": {"local": BLOCK}}
    plain = base.plain() | {"model": model}
    return document.overridden(document.node(plain), document.node(changes))


def two_stacks(folder, way="encoder_decoder", **changes):
    return document.overridden(tiny(init_from={"run": str(folder), "as": way}), document.node(changes))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "decoder"
    record = train(plan(one_stack()), 0, folder)
    assert record.status == "finished", record.failure
    return folder


def test_a_decoder_becomes_both_stacks(decoder, tmp_path, monkeypatch):
    planned = plan(two_stacks(decoder))
    start, record = first_weights(planned, 0, tmp_path / "run", monkeypatch)
    held = load_file(decoder / "model.safetensors")
    for name, weight in start.items():
        assert torch.equal(weight, held[name.removeprefix("encoder.")]), name
    assert not planned.start.new
    assert not planned.start.unused
    notes = " ".join(record.notes)
    assert "as encoder_decoder" in notes
    assert "the encoder, filled from the decoder's layers: encoder.blocks.{0,1}.mixer" in notes


def test_cross_attention_starts_from_self_attention(decoder):
    cross = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "qk_norm": True}
    wide = {**cross, "kv_heads": 2}
    own = {"type": "attention", "rope": {"theta": 1e4}}
    for each, new in ((cross, 0), (wide, 2 * 2)):
        spec = two_stacks(decoder)
        plain = spec.plain()
        for name in ("local", "global"):
            mixer = plain["model"]["blocks"][name].setdefault("mixer", {})
            if name == "local":
                mixer |= own
            plain["model"]["blocks"][name]["cross"] = each
        start = plan(plain).start
        copied = {name: source for name, source in start.moved.items() if ".cross." in name}
        assert copied["blocks.1.cross.component.q.weight"] == "blocks.1.mixer.component.q.weight"
        assert copied["blocks.0.cross.before.weight"] == "blocks.0.mixer.before.weight"
        assert sorted(start.new.values()) == ["different shape in the checkpoint"] * new
        assert any("cross-attention, copied from self-attention: blocks.{0,1}.cross" in note for note in start.notes())


@pytest.mark.slow
def test_the_encoder_is_taken_out(tmp_path, monkeypatch):
    both, same = tmp_path / "both", {"data.tokenizer": {"type": "byte"}}
    assert train(plan(tiny(**same)), 0, both).status == "finished"
    blocks = {"local": {**AHEAD, "mixer": {**AHEAD["mixer"], "window": {"before": 3, "after": 4}}}}
    changes = {"objective": {"type": "contrastive"}, "init_from": {"run": str(both), "as": "encoder"}, **same}
    alone = one_stack(**{"model.blocks": blocks, "model.pool": {"type": "mean"}, "data.source": {"type": "docstrings"}, **changes})
    plain = alone.plain()
    plain["evaluate"] = {"every": 2, "select": {}, "report": {}}
    planned = plan(plain)
    start, record = first_weights(planned, 0, tmp_path / "alone", monkeypatch)
    held = load_file(both / "model.safetensors")
    for name, weight in start.items():
        assert torch.equal(weight, held["embedding" if name == "embedding" else f"encoder.{name}"]), name
    assert any(name.startswith("blocks.0.mixer") for name in planned.start.unused)
    assert any("the encoder's, taken out: blocks" in note for note in record.notes)


def test_how_a_run_is_used_is_part_of_what_a_run_is(decoder):
    adapted, by_name = plan(two_stacks(decoder)), plan(document.overridden(tiny(), document.node({"init_from": str(decoder)})))
    assert adapted.identity != by_name.identity
    assert adapted.start.identity["as"] == "encoder_decoder"
    assert "as" not in by_name.start.identity


@pytest.mark.parametrize("way, make, words", [
    ("encoder_decoder", one_stack, "init_from.as: encoder_decoder: this model has no `encoder`"),
    ("encoder", one_stack, "init_from.as: encoder: that run has no `encoder` to take out"),
    ("encoder", tiny, "init_from.as: encoder: this model has an `encoder` beside its decoder"),
    ("sideways", tiny, "init_from"),
])  # fmt: skip
def test_what_cannot_become_the_other_is_refused(decoder, way, make, words):
    with pytest.raises(SpecError, match=words):
        plan(make(init_from={"run": str(decoder), "as": way}))
