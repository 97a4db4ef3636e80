"""RecurrentGemma in Hugging Face folders (`transformers.RecurrentGemmaForCausalLM`)."""

from typing import Annotated, Literal

from pydantic import Field

from arch.families import config, gemma2
from arch.families.config import RopeParameters, kinds, pattern, rope_parameters
from arch.spec import Count, Positive
from arch.tensors import As

ROOTS = ("model.", "")
BEYOND_WINDOW = "the window, where one pass is longer"
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm.weight": "model.final_norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.*.mixer.before.weight": "model.layers.*.temporal_pre_norm.weight",
    "blocks.*.ffn.before.weight": "model.layers.*.channel_pre_norm.weight",
    "blocks.*.mixer.rg_lru.conv.weight": As(
        "model.layers.*.temporal_block.conv_1d.weight", lambda w_R1J: w_R1J[:, 0].T, lambda w_JR: w_JR.T[:, None]
    ),
    "blocks.*.mixer.rg_lru.conv.bias": "model.layers.*.temporal_block.conv_1d.bias",
    "blocks.*.mixer.rg_lru.recurrence_gate.weight": "model.layers.*.temporal_block.rg_lru.recurrent_gate_weight",
    "blocks.*.mixer.rg_lru.recurrence_gate.bias": "model.layers.*.temporal_block.rg_lru.recurrent_gate_bias",
    "blocks.*.mixer.rg_lru.input_gate.weight": "model.layers.*.temporal_block.rg_lru.input_gate_weight",
    "blocks.*.mixer.rg_lru.input_gate.bias": "model.layers.*.temporal_block.rg_lru.input_gate_bias",
    "blocks.*.mixer.rg_lru.decay": As("model.layers.*.temporal_block.rg_lru.recurrent_param", lambda L: -L, lambda L: -L),
}
NAMES |= {
    f"blocks.*.mixer.rg_lru.{ours}.{kind}": f"model.layers.*.temporal_block.{theirs}.{kind}"
    for ours, theirs in {"x": "linear_x", "y": "linear_y", "o": "linear_out"}.items()
    for kind in ("weight", "bias")
}
NAMES |= {
    name: theirs.replace("self_attn", "temporal_block")
    for name, theirs in gemma2.NAMES.items()
    if name.startswith("blocks.*.mixer.attention.")
}
NAMES |= {
    f"blocks.*.ffn.gated.{part}.{kind}": f"model.layers.*.mlp_block.{part}_proj.{kind}"
    for part in ("gate", "up", "down")
    for kind in ("weight", "bias")
}


class Config(config.Config):
    """RecurrentGemma's config.json.

    `attention_window_size` is our window. `intermediate_size` counts both branches of the FFN. The embedding is scaled
    by sqrt(dim) rounded to bfloat16. The gates have one block per query head; a head has hidden_size / heads channels.
    `hidden_activation` also applies to the recurrent block's gate, for which we support only one activation.
    """

    model_type: Literal["recurrent_gemma"] = "recurrent_gemma"
    vocab_size: Count = 256_000
    hidden_size: Count = 2560
    intermediate_size: Count = 7680
    num_attention_heads: Count = 10
    num_key_value_heads: Count | None = None
    lru_width: Count | None = None
    attention_window_size: Count = 2048
    conv1d_width: Count = 4
    logits_soft_cap: Positive = 30.0
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    rope_parameters: RopeParameters | None = None
    partial_rotary_factor: Positive = 0.5
    block_types: Annotated[list[Literal["recurrent", "attention"]], Field(min_length=1)] = [
        "recurrent",
        "recurrent",
        "attention",
    ]

    def architecture(self):
        return "RecurrentGemmaForCausalLM"

    def spec(self):
        names = [self.block_types[i % len(self.block_types)] for i in range(self.num_hidden_layers)]
        if self.lru_width not in (None, self.hidden_size):
            raise ValueError("lru_width: transformers keeps a decoding state of hidden_size channels; expected the same")
        if "attention" not in names:
            raise ValueError("block_types: transformers needs a layer of attention; expected one within the layers")
        said = self.rope_scaling or self.rope_parameters or RopeParameters()
        turned = said.ours(self.rope_theta or 10_000.0)
        if turned["scale"] != 1:
            raise ValueError("rope_parameters: transformers has no scaling in this class")
        mixers = {
            "recurrent": {"type": "rg_lru", "blocks": self.num_attention_heads, "taps": self.conv1d_width}
            | {"decay_init": "reference"},
            "attention": {
                "type": "attention",
                "heads": self.num_attention_heads,
                "kv_heads": self.num_key_value_heads or self.num_attention_heads,
                "head_dim": self.hidden_size // self.num_attention_heads,
                "window": self.attention_window_size,
                "rope": {**turned, "fraction": said.partial_rotary_factor or self.partial_rotary_factor},
                "bias": self.attention_bias,
                "output_bias": True,
            },
        }
        ffn = {"type": "gated", "hidden": self.intermediate_size // 2, "activation": "gelu_tanh", "bias": True}
        return {
            "dim": self.hidden_size,
            "vocab_size": self.vocab_size,
            "layers": self.num_hidden_layers,
            "pattern": pattern(names),
            "embed_scale": "sqrt_dim_bfloat16",
            "tie_embeddings": self.tie_word_embeddings,
            "logit_softcap": self.logits_soft_cap,
            "norm_eps": self.rms_norm_eps,
            "blocks": {name: {"mixer": mixers[name], "ffn": ffn, "norm": "before"} for name in dict.fromkeys(names)},
        }

    def older(self):
        rope = self.rope_parameters
        return {"rope_theta": rope.rope_theta, "partial_rotary_factor": rope.partial_rotary_factor}

    def since(self):
        # Tried: 4.50 to 4.57 keep to the window only while they decode, 5.5 to 5.23 always; 5.0 and 5.1 give other logits at all.
        turned = {} if self.rope_parameters.partial_rotary_factor == 0.5 else {"other than half of the channels turned": "5.0"}
        return {BEYOND_WINDOW: "5.5"} | turned

    @classmethod
    def of(cls, spec):
        attention, _ = kinds(spec)
        if attention is None:
            raise ValueError("it has no layer of attention, without which transformers cannot run")
        blocks = [spec.blocks[name] for name in spec.layer_blocks()]
        recurrent = next((block.mixer for block in blocks if block.mixer["type"] == "rg_lru"), {"width": None, "taps": 4})
        mixer, names = attention.mixer, {"rg_lru": "recurrent", "attention": "attention"}
        fraction = (mixer["rope"] or {}).get("fraction", 0.5)
        return dict(
            vocab_size=spec.vocab_size,
            hidden_size=spec.dim,
            intermediate_size=2 * attention.ffn["hidden"],
            num_hidden_layers=spec.layers,
            num_attention_heads=mixer["heads"],
            num_key_value_heads=mixer["kv_heads"],
            attention_window_size=mixer["window"],
            attention_bias=mixer["bias"],
            rope_parameters=rope_parameters(mixer["rope"]) | {"partial_rotary_factor": fraction},
            lru_width=recurrent["width"],
            conv1d_width=recurrent["taps"],
            logits_soft_cap=spec.logit_softcap,
            rms_norm_eps=spec.norm_eps,
            tie_word_embeddings=spec.tie_embeddings,
            block_types=[names[block.mixer["type"]] for block in blocks],
        )
