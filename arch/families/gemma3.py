"""Gemma 3 and EmbeddingGemma's trunk in Hugging Face folders (`transformers.Gemma3ForCausalLM`, `Gemma3TextModel`).

Of multimodal folders, this is the text part; `arch.multimodal` has the tower.
"""

from typing import Literal

from arch.families import config, gemma2
from arch.families.config import RopeParameters, kinds, rope_parameters
from arch.families.gemma2 import block_of, frame_of, mixer_of, names_of, shared
from arch.spec import Count, Positive, Spec

# The class of a model without a head, which is the trunk of an encoder.
TRUNK = "Gemma3TextModel"
# The class of a model with a vision tower.
WITH_IMAGES = "Gemma3ForConditionalGeneration"
# Prefixes of a text model, of a trunk without a head, and of multimodal folders of older and newer releases.
ROOTS = ("model.", "", "language_model.model.", "model.language_model.")
IGNORED = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
NAMES = gemma2.NAMES | {
    "blocks.*.mixer.attention.q_norm.weight": "model.layers.*.self_attn.q_norm.weight",
    "blocks.*.mixer.attention.k_norm.weight": "model.layers.*.self_attn.k_norm.weight",
}


class RopeByKind(Spec):
    """Rotary positions of local and of global layers."""

    sliding_attention: RopeParameters | None = None
    full_attention: RopeParameters | None = None


class Config(config.Config):
    """Gemma 3's config.json, or the `text_config` in it.

    `sliding_window` is our window in a causal model; a bidirectional model sees half of it on each side. Linear scaling
    in the older key `rope_scaling` applies to the positions of global layers.
    """

    model_type: Literal["gemma3_text"] = "gemma3_text"
    vocab_size: Count = 262_208
    head_dim: Count = 256
    query_pre_attn_scalar: Count = 256
    sliding_window: Count | None = 4096
    rope_parameters: RopeByKind | None = None
    sliding_window_pattern: Count | None = 6
    layer_types: list[Literal["sliding_attention", "full_attention"]] | None = None
    rope_local_base_freq: Positive | None = None
    attn_logit_softcapping: None = None
    final_logit_softcapping: Positive | None = None
    use_bidirectional_attention: bool | None = False

    def architecture(self):
        trunk = self.use_bidirectional_attention and self.tie_word_embeddings and self.final_logit_softcapping is None
        return TRUNK if trunk else "Gemma3ForCausalLM"

    def spec(self):
        kind, none = self.rope_parameters or RopeByKind(), RopeParameters()
        ropes = {
            "local": (kind.sliding_attention or none).ours(self.rope_local_base_freq or 10_000.0),
            "global": (kind.full_attention or none).under(self.rope_scaling).ours(self.rope_theta or 1_000_000.0),
        }
        names = names_of(self, _period(self.sliding_window_pattern or 6))
        window = self.sliding_window
        if self.use_bidirectional_attention and window is not None:
            if window > 2 and (window - 1) & (window - 2) == 0:  # 2^k + 1
                raise ValueError(
                    f"sliding_window: {window} may have been {2 * (window - 1)}: some releases of transformers save half of it and "
                    f"one more, each time. Write the true number into the file ({window - 1} if {window} is right: the same), "
                    "or give a spec that says it (--spec; embeddinggemma/300m has 512)"
                )
            window = {"before": window // 2, "after": window // 2}
        windows = {"local": window, "global": None}
        mixer = {**mixer_of(self), "qk_norm": True, "causal": not self.use_bidirectional_attention}
        blocks = {name: block_of(self, {**mixer, "rope": ropes[name], "window": windows[name]}) for name in dict.fromkeys(names)}
        return {**frame_of(self, names), "blocks": blocks}

    def older(self):
        local, whole = self.rope_parameters.sliding_attention, self.rope_parameters.full_attention
        fits = (
            n for n in range(1, self.num_hidden_layers + 2) if self.layer_types == _repeated(_period(n), self.num_hidden_layers)
        )
        return {
            "rope_theta": whole.rope_theta,
            "rope_scaling": whole.scaling(),
            "rope_local_base_freq": None if self._scales_local() else local.rope_theta,
            "sliding_window_pattern": next(fits, None),
        }

    def since(self):
        needs = {
            "positions that are scaled in layers with a window": ("5.0", self._scales_local()),
            "attention to later tokens": ("4.56", self.use_bidirectional_attention),
            "an order of layers that is no number of local ones and then a global one": (
                "4.53",
                self.older()["sliding_window_pattern"] is None,
            ),
        }
        return {what: release for what, (release, needed) in needs.items() if needed}

    def _scales_local(self):
        return "sliding_attention" in self.layer_types and self.rope_parameters.sliding_attention.scaling() is not None

    @classmethod
    def of(cls, spec):
        local, whole = kinds(spec)
        window = local.mixer["window"] or 4096  # transformers needs a number even if no layer uses it
        return dict(
            **shared(spec, local),
            sliding_window=2 * window["before"] if isinstance(window, dict) else window,
            use_bidirectional_attention=not local.mixer["causal"],
            rope_parameters=ropes(local, whole),
        )


def ropes(local, whole):
    """The `rope_parameters` of a local and a global block."""
    return {
        "sliding_attention": rope_parameters(local.mixer["rope"]),
        "full_attention": rope_parameters(whole.mixer["rope"]),
    }


def _period(pattern):
    """The layer types that repeat where every `pattern`-th layer is global."""
    return ["sliding_attention"] * (pattern - 1) + ["full_attention"]


def _repeated(period, layers):
    return [period[i % len(period)] for i in range(layers)]
