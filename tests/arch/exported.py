"""Models that a class of `transformers` computes exactly, as specs and as checkpoints with random weights."""

import torch
from tiny_specs import resolved

from arch import checkpoint, document, registry, tensors
from arch.model import new_model
from arch.model_spec import ModelSpec


def base(**changes):
    """A Gemma-like spec with changes by dotted keys."""
    mixer = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8, "window": 4, "qk_norm": True}
    block = {"mixer": mixer, "ffn": {"type": "gated", "hidden": 24}, "norm": "sandwich"}
    data = {
        "dim": 16,
        "vocab_size": 37,
        "layers": 2,
        "pattern": ["local", "global"],
        "embed_scale": "sqrt_dim",
        "blocks": {"local": block, "global": {"like": "local", "mixer": {"window": None, "rope": {"theta": 1e6}}}},
    }
    root = document.overridden(document.node(data), document.node(changes))
    return registry.resolve(ModelSpec.parse(root), root)


def checkpoint_of(spec, folder, noise=0.0):
    """A checkpoint in our format with random weights. noise: its standard deviation, added to every weight."""
    folder.mkdir()
    model = new_model(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=noise)
    checkpoint.write(spec, tensors.of_mapping(dict(model.state_dict())), folder)
    return model


def recurrent(pattern=("r", "a"), width=None, **rope):
    """A RecurrentGemma-like spec."""
    ffn = {"type": "gated", "hidden": 8, "bias": True}
    attention = {"type": "attention", "heads": 2, "kv_heads": 1, "window": 4, "output_bias": True}
    attention["rope"] = {"fraction": 0.5, **rope}
    blocks = {"r": {"mixer": {"type": "rg_lru", "blocks": 2, "width": width}, "ffn": ffn}, "a": {"mixer": attention, "ffn": ffn}}
    data = {"dim": 16, "vocab_size": 37, "layers": len(pattern), "pattern": list(pattern), "blocks": blocks}
    return resolved({**data, "embed_scale": "sqrt_dim_bfloat16", "logit_softcap": 30.0})


TWO_SIDED = {"blocks.local.mixer.causal": False, "blocks.local.mixer.window": {"before": 2, "after": 2}}
PLAIN = {"blocks.local.mixer.qk_norm": False, "blocks.global.mixer.rope.theta": 1e4}
EXPRESSED = {
    "gemma3": base(),
    "gemma3, untied and capped": base(tie_embeddings=False, logit_softcap=5.0),
    "gemma3, silu and biases": base(
        **{"blocks.local.ffn.activation": "silu", "blocks.local.mixer.bias": True, "blocks.local.mixer.output_bias": True}
    ),
    "gemma3, local only": base(pattern=["local"]),
    "gemma3, global only": base(pattern=["global"]),
    "gemma3, scaled positions": base(**{"blocks.global.mixer.rope.scale": 4.0, "blocks.local.mixer.rope.scale": 2.0}),
    "gemma3, a scale of its own": base(**{"blocks.local.mixer.query_scale": 7**-0.5}),
    "gemma3, sees ahead": base(**TWO_SIDED),
    "gemma3, sees ahead, untied": base(**TWO_SIDED, tie_embeddings=False),
    "gemma3, sees ahead, capped": base(**TWO_SIDED, logit_softcap=5.0),
    "gemma2": base(**PLAIN, **{"blocks.local.mixer.softcap": 5.0}, logit_softcap=3.0),
    "gemma2, no caps, silu": base(**PLAIN, **{"blocks.local.ffn.activation": "silu"}),
    "gemma2, relu": base(**PLAIN, **{"blocks.local.ffn.activation": "relu"}),
    "gemma2, global only": base(**PLAIN, pattern=["global"]),
    "recurrent_gemma": recurrent(),
    "recurrent_gemma, attention only": recurrent(pattern=("a", "a")),
}
