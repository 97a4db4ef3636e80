"""Gemma 2 in Hugging Face folders (`transformers.Gemma2ForCausalLM`)."""

from typing import Literal

from arch.families import config
from arch.families.config import ACTIVATIONS, RopeParameters, kinds, pattern, rope_parameters
from arch.spec import Count, Positive

ROOTS = ("model.", "")
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.*.mixer.before.weight": "model.layers.*.input_layernorm.weight",
    "blocks.*.mixer.after.weight": "model.layers.*.post_attention_layernorm.weight",
    "blocks.*.ffn.before.weight": "model.layers.*.pre_feedforward_layernorm.weight",
    "blocks.*.ffn.after.weight": "model.layers.*.post_feedforward_layernorm.weight",
    "blocks.*.mixer.attention.q.weight": "model.layers.*.self_attn.q_proj.weight",
    "blocks.*.mixer.attention.k.weight": "model.layers.*.self_attn.k_proj.weight",
    "blocks.*.mixer.attention.v.weight": "model.layers.*.self_attn.v_proj.weight",
    "blocks.*.mixer.attention.o.weight": "model.layers.*.self_attn.o_proj.weight",
    "blocks.*.mixer.attention.q.bias": "model.layers.*.self_attn.q_proj.bias",
    "blocks.*.mixer.attention.k.bias": "model.layers.*.self_attn.k_proj.bias",
    "blocks.*.mixer.attention.v.bias": "model.layers.*.self_attn.v_proj.bias",
    "blocks.*.mixer.attention.o.bias": "model.layers.*.self_attn.o_proj.bias",
    "blocks.*.ffn.gated.gate.weight": "model.layers.*.mlp.gate_proj.weight",
    "blocks.*.ffn.gated.up.weight": "model.layers.*.mlp.up_proj.weight",
    "blocks.*.ffn.gated.down.weight": "model.layers.*.mlp.down_proj.weight",
}


class Config(config.Config):
    """Gemma 2's config.json. Local and global layers share one rotary base, and all windows are equal."""

    model_type: Literal["gemma2"] = "gemma2"
    vocab_size: Count = 256_000
    head_dim: Count = 256
    query_pre_attn_scalar: Count = 256
    sliding_window: Count | None = 4096
    rope_parameters: RopeParameters | None = None
    layer_types: list[Literal["sliding_attention", "full_attention"]] | None = None
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0
    use_bidirectional_attention: Literal[False] | None = None

    def architecture(self):
        return "Gemma2ForCausalLM"

    def spec(self):
        turned = (self.rope_scaling or self.rope_parameters or RopeParameters()).ours(self.rope_theta or 10_000.0)
        names = names_of(self, ["sliding_attention", "full_attention"])
        mixer = {**mixer_of(self), "softcap": self.attn_logit_softcapping, "rope": turned}
        windows = {"local": self.sliding_window, "global": None}
        return {
            **frame_of(self, names),
            "blocks": {name: block_of(self, {**mixer, "window": windows[name]}) for name in dict.fromkeys(names)},
        }

    def since(self):
        alternating = [("sliding_attention", "full_attention")[i % 2] for i in range(self.num_hidden_layers)]
        return {} if self.layer_types == alternating else {"an order of layers other than local, global, local, ...": "4.53"}

    @classmethod
    def of(cls, spec):
        local, _ = kinds(spec)
        mixer = local.mixer
        return dict(
            **shared(spec, local),
            sliding_window=mixer["window"] or 4096,  # transformers needs a number even if no layer uses it
            attn_logit_softcapping=mixer["softcap"],
            rope_parameters=rope_parameters(mixer["rope"]),
        )


def names_of(config, default):
    """The block name of each layer. If the config does not list layer types, they repeat `default`.

    Raises ValueError for a list of the wrong length, and for windowed layers without a window.
    """
    layers, types = config.num_hidden_layers, config.layer_types
    if types is not None and len(types) != layers:
        raise ValueError(f"layer_types: {len(types)} of them for num_hidden_layers = {layers}")
    types = types or [default[i % len(default)] for i in range(layers)]
    if config.sliding_window is None and "sliding_attention" in types:
        raise ValueError("sliding_window: null, but there are layers of sliding_attention")
    names = {"sliding_attention": "local", "full_attention": "global"}
    return [names[kind] for kind in types]


def frame_of(config, names):
    """The keys of a Gemma 2 or 3 ModelSpec outside its blocks."""
    return {
        "dim": config.hidden_size,
        "vocab_size": config.vocab_size,
        "layers": config.num_hidden_layers,
        "pattern": pattern(names),
        "embed_scale": "sqrt_dim",
        "tie_embeddings": config.tie_word_embeddings,
        "logit_softcap": config.final_logit_softcapping,
        "norm_eps": config.rms_norm_eps,
    }


def mixer_of(config):
    """The attention options that all layers of a Gemma 2 or 3 share. query_scale is null if it is C^-1/2."""
    scalar = config.query_pre_attn_scalar
    return {
        "type": "attention",
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "query_scale": None if scalar == config.head_dim else scalar**-0.5,
        "bias": config.attention_bias,
        "output_bias": config.attention_bias,
    }


def block_of(config, mixer):
    """The block of a Gemma 2 or 3 layer with this mixer."""
    ffn = {"type": "gated", "hidden": config.intermediate_size, "activation": ACTIVATIONS[config.hidden_activation]}
    return {"mixer": mixer, "ffn": ffn, "norm": "sandwich"}


def shared(spec, block):
    """The keys of config.json that Gemma 2 and 3 share, from a spec and one of its attention blocks."""
    mixer, ffn = block.mixer, block.ffn
    channels = mixer["head_dim"] or spec.dim // mixer["heads"]
    types = {name: "full_attention" if b.mixer["window"] is None else "sliding_attention" for name, b in spec.blocks.items()}
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.dim,
        "intermediate_size": ffn["hidden"],
        "num_hidden_layers": spec.layers,
        "num_attention_heads": mixer["heads"],
        "num_key_value_heads": mixer["kv_heads"],
        "head_dim": channels,
        "query_pre_attn_scalar": channels if mixer["query_scale"] is None else round(mixer["query_scale"] ** -2),
        "hidden_activation": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == ffn["activation"]),
        "rms_norm_eps": spec.norm_eps,
        "attention_bias": mixer["bias"],
        "tie_word_embeddings": spec.tie_embeddings,
        "final_logit_softcapping": spec.logit_softcap,
        "layer_types": [types[name] for name in spec.layer_blocks()],
    }
