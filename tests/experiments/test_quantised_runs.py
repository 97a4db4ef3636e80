"""Runs with rounded weights: with a format of a user's own, and in bfloat16."""

import torch
from safetensors.torch import load_file

from arch import checkpoint, packed, registry
from arch.quantised import weights
from experiments.plan import plan
from experiments.train import train


def test_a_format_of_ones_own_trains_in_bfloat16(plugins, tiny, tmp_path):
    """One file, one line of the spec. What is kept are float32 weights that have no place in the format."""
    own = {"type": "own_quantiser:Ternary"}
    tiny["model"] |= {"quantise": {"embedding": {"type": "sfp8"}, "matrix": own}, "pattern": ["local", "global"], "layers": 2}
    tiny["train"] = {"steps": 4, "precision": "bf16-mixed"}
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished" and set(record.plugins) == {"own_quantiser"}, record.failure
    kept = load_file(tmp_path / "run" / "model.safetensors")
    model = checkpoint.load(tmp_path / "run")
    quantiser = registry.build("quantiser", own)
    for _, name, role, weight in weights(model):
        assert kept[name].dtype is torch.float32 and torch.equal(kept[name], weight)
        if role == "matrix":
            stored = quantiser.pack(weight)
            assert torch.equal(quantiser.unpack(stored, weight.shape[1]), quantiser.rounded(weight))
            assert sum(part.nbytes for part in stored.values()) == quantiser.bytes(*weight.shape)
            assert not torch.allclose(quantiser.rounded(weight), weight, rtol=1e-2)
    sizes = packed.weights(planned.spec.model, planned.spec.model.quantise.roles())
    assert sizes["matrix"]["bits"] < 5 and sizes["matrix"]["format"] == "own_quantiser:Ternary"
