"""T5Gemma 2 in Hugging Face folders (`transformers.T5Gemma2ForConditionalGeneration`): two stacks of Gemma 3's blocks.

The decoder's attention is merged with its cross-attention, and both stacks and the head share one embedding. The encoder's window
of W tokens has the token itself, (W + 1) // 2 - 1 before it and W // 2 after it.

Only text is read: the vision tower, its projector and the embedding of the token that ends an image are left out, and a source
must not have that token.
"""

from typing import Any, Literal

from pydantic import model_validator

from arch.families import gemma3
from arch.families.config import kinds
from arch.families.gemma2 import shared
from arch.families.t5gemma import LAYER, attention, known, layers, two_stacks
from arch.spec import Spec

IGNORED = ("model.encoder.vision_tower.", "model.encoder.multi_modal_projector.", "model.encoder.embed_tokens.eoi_embedding")
NORMS = {f"{part}_norm.weight": f"self_attn.{part}_norm.weight" for part in "qk"}
NAMES = {
    "embedding": "model.encoder.embed_tokens.weight",
    "norm.weight": "model.decoder.norm.weight",
    "head.weight": "lm_head.out_proj.weight",
    "encoder.norm.weight": "model.encoder.norm.weight",
    **layers("encoder", LAYER | attention("mixer.attention", "self_attn")),
    **layers("encoder", {f"mixer.attention.{ours}": theirs for ours, theirs in NORMS.items()}),
    **layers("decoder", LAYER | attention("mixer.merged_attention", "self_attn")),
    **layers("decoder", {f"mixer.merged_attention.{ours}": theirs for ours, theirs in NORMS.items()}),
}
# The class always builds a vision tower; one so small costs nothing. No token of a text ends an image.
NO_VISION = {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 1, "image_size": 4, "patch_size": 4, "vision_use_head": False}  # fmt: skip
NO_TOKEN = -1


class Text(gemma3.Config):
    """The encoder: Gemma 3's keys under another `model_type`."""

    model_type: Literal["t5gemma2_text"] = "t5gemma2_text"


class Decoder(gemma3.Config):
    """The decoder: Gemma 3's keys under another `model_type`."""

    model_type: Literal["t5gemma2_decoder"] = "t5gemma2_decoder"


class Encoder(Spec):
    """What the encoder's part of config.json says: of text, and of images, which are not read."""

    text_config: Text = Text()
    vision_config: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_keys_that_compute_nothing(cls, data):
        return known(data, {"text_config": Text})


class Config(Spec):
    """T5Gemma 2's config.json, see `arch.families.config.Config` for its methods."""

    model_type: Literal["t5gemma2"] = "t5gemma2"
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    tie_word_embeddings: bool = True

    @model_validator(mode="before")
    @classmethod
    def _without_keys_that_compute_nothing(cls, data):
        return known(data, {"encoder": Encoder, "decoder": Decoder})

    def architecture(self):
        return "T5Gemma2ForConditionalGeneration"

    def spec(self):
        text = self.encoder.text_config
        encoder, decoder, width = text.spec(), self.decoder.spec(), text.sliding_window
        if encoder["dim"] != decoder["dim"]:
            raise ValueError(f"encoder: hidden_size {encoder['dim']} for {decoder['dim']} of the decoder, which share a table")
        for block in decoder["blocks"].values():
            block["mixer"] = {k: v for k, v in block["mixer"].items() if k != "causal"} | {"type": "merged_attention"}
        for block in encoder["blocks"].values():
            window = block["mixer"]["window"]
            if window is not None:
                if width < 3:
                    raise ValueError(f"encoder: a sliding_window of {width} sees nothing before a token")
                window = {"before": (width + 1) // 2 - 1, "after": width // 2}
            block["mixer"] |= {"causal": False, "window": window}
        return two_stacks(encoder, decoder, "shared") | {"tie_embeddings": self.tie_word_embeddings}

    def since(self):
        return {"an encoder beside a decoder, with merged attention": "5.0"}

    @classmethod
    def of(cls, spec):
        encoder, decoder = _stack(spec.encoder_spec, "attention"), _stack(spec, "merged_attention")
        encoder |= {key: decoder[key] for key in ("final_logit_softcapping", "tie_word_embeddings")}
        return {"encoder": {"text_config": encoder}, "decoder": decoder, "tie_word_embeddings": spec.tie_embeddings}

    def written(self):
        """The keys for a config.json."""
        none = {"vision_config": NO_VISION, "mm_tokens_per_image": 1, "boi_token_index": NO_TOKEN, "eoi_token_index": NO_TOKEN}
        return {
            "model_type": self.model_type,
            "encoder": {"model_type": "t5gemma2_encoder", "text_config": self.encoder.text_config.written(), **none},
            "decoder": self.decoder.written(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.decoder.vocab_size,
            "image_token_index": NO_TOKEN,
            "is_encoder_decoder": True,
        }


def _stack(spec, mixer):
    local, whole = kinds(spec, mixer)
    window = local.mixer["window"] or 4096
    return dict(
        **shared(spec, local),
        sliding_window=window["before"] + window["after"] + 1 if isinstance(window, dict) else window,
        rope_parameters=gemma3.ropes(local, whole),
    )
