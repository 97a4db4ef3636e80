"""T5Gemma in Hugging Face folders (`transformers.T5GemmaForConditionalGeneration`): two stacks of Gemma 2's blocks.

The decoder has a cross-attention of its own between self-attention and ffn. The encoder's window has W tokens on each side of a
token, not W in all, and its embedding is its own.
"""

from typing import Any, Literal

from pydantic import model_validator

from arch.families import gemma2
from arch.families.config import kinds, rope_parameters
from arch.families.gemma2 import shared
from arch.spec import Count, Spec

# The options that a decoder's cross-attention shares with its self-attention.
CROSS = ("heads", "kv_heads", "head_dim", "softcap", "query_scale", "bias", "output_bias")
# From 4.53 to 5.3, a token of the encoder saw one token less on each side.
BEYOND_WINDOW = "windows of W tokens on each side in the encoder"
# {our name: theirs} of the parts of a layer, in either stack.
LAYER = {
    "mixer.before.weight": "pre_self_attn_layernorm.weight",
    "mixer.after.weight": "post_self_attn_layernorm.weight",
    "ffn.before.weight": "pre_feedforward_layernorm.weight",
    "ffn.after.weight": "post_feedforward_layernorm.weight",
    "ffn.gated.gate.weight": "mlp.gate_proj.weight",
    "ffn.gated.up.weight": "mlp.up_proj.weight",
    "ffn.gated.down.weight": "mlp.down_proj.weight",
}


def attention(ours, theirs):
    """{our name: theirs} of the maps of an attention: weights and biases."""
    return {f"{ours}.{part}.{what}": f"{theirs}.{part}_proj.{what}" for part in "qkvo" for what in ("weight", "bias")}


def layers(stack, parts):
    """{our name: theirs} of the layers of a stack (`encoder` or `decoder`), from the names of a layer's parts."""
    prefix = "encoder." if stack == "encoder" else ""
    return {f"{prefix}blocks.*.{ours}": f"model.{stack}.layers.*.{theirs}" for ours, theirs in parts.items()}


NAMES = {
    "embedding": "model.decoder.embed_tokens.weight",
    "norm.weight": "model.decoder.norm.weight",
    "head.weight": "lm_head.out_proj.weight",
    "encoder.embedding": "model.encoder.embed_tokens.weight",
    "encoder.norm.weight": "model.encoder.norm.weight",
    **layers("encoder", LAYER | attention("mixer.attention", "self_attn")),
    **layers("decoder", LAYER | attention("mixer.attention", "self_attn") | attention("cross.attention", "cross_attn")),
    **layers("decoder", {"cross.before.weight": "pre_cross_attn_layernorm.weight"}),
    **layers("decoder", {"cross.after.weight": "post_cross_attn_layernorm.weight"}),
}


class Stack(gemma2.Config):
    """One stack: Gemma 2's keys under another `model_type`."""

    model_type: Literal["t5_gemma_module"] = "t5_gemma_module"


class Config(Spec):
    """T5Gemma's config.json, see `arch.families.config.Config` for its methods."""

    model_type: Literal["t5gemma"] = "t5gemma"
    encoder: Stack = Stack()
    decoder: Stack = Stack()
    tie_word_embeddings: bool = True
    vocab_size: Count = 256_000

    @model_validator(mode="before")
    @classmethod
    def _without_keys_that_compute_nothing(cls, data):
        return known(data, {"encoder": Stack, "decoder": Stack})

    def architecture(self):
        return "T5GemmaForConditionalGeneration"

    def spec(self):
        encoder, decoder = self.encoder.spec(), self.decoder.spec()
        for block in decoder["blocks"].values():
            block["cross"] = {"type": "attention", **{key: block["mixer"].get(key) for key in CROSS}}
        width = self.encoder.sliding_window
        for block in encoder["blocks"].values():
            window = None if block["mixer"]["window"] is None else {"before": width, "after": width}
            block["mixer"] |= {"causal": False, "window": window}
        return two_stacks(encoder, decoder, "own") | {"tie_embeddings": self.tie_word_embeddings}

    def since(self):
        needs = {"an encoder beside a decoder": "4.53"}
        if any(block["mixer"]["window"] is not None for block in self.spec()["encoder"]["blocks"].values()):
            needs[BEYOND_WINDOW] = "5.4"
        return needs

    @classmethod
    def of(cls, spec):
        stacks = {"decoder": spec, "encoder": spec.encoder_spec}
        made = {name: _stack(stack) for name, stack in stacks.items()}
        # The encoder's own head, which it has not, says what the decoder's says.
        made["encoder"] |= {key: made["decoder"][key] for key in ("final_logit_softcapping", "tie_word_embeddings")}
        return {**made, "tie_word_embeddings": spec.tie_embeddings, "vocab_size": spec.vocab_size}

    def written(self):
        """The keys for a config.json."""
        rest = {key: value for key, value in self.dump().items() if key not in ("encoder", "decoder")}
        stacks = {name: getattr(self, name).written() for name in ("encoder", "decoder")}
        return {**rest, **stacks, "is_encoder_decoder": True}


def _stack(spec):
    local, _ = kinds(spec)
    window = local.mixer["window"] or 4096
    return dict(
        **shared(spec, local),
        sliding_window=window["before"] if isinstance(window, dict) else window,
        attn_logit_softcapping=local.mixer["softcap"],
        rope_parameters=rope_parameters(local.mixer["rope"]),
    )


def known(data: Any, parts: dict[str, Any]) -> Any:
    """Plain data of a config without the keys of its `parts` ({key: its class}) that decide nothing that is computed."""
    if not isinstance(data, dict):
        return data
    for key, part in parts.items():
        if isinstance(data.get(key), dict):
            names = part.keys()
            data = {**data, key: {name: value for name, value in data[key].items() if name in names}}
    return data


def two_stacks(encoder, decoder, embedding):
    """Plain data of a ModelSpec from those of its stacks. Raises ValueError where they must agree and do not."""
    for ours, theirs in (("vocab_size", "vocab_size"), ("norm_eps", "rms_norm_eps")):
        if encoder[ours] != decoder[ours]:
            raise ValueError(f"encoder: its {theirs} is {encoder[ours]}, the decoder's {decoder[ours]}; here they share one")
    own = {key: encoder[key] for key in ("layers", "pattern", "blocks", "dim")}
    return {**decoder, "encoder": {**own, "embedding": embedding}}
