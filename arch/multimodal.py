"""Folders of Gemma 3 with its vision tower (`transformers.Gemma3ForConditionalGeneration`): names of tensors and config.json.

The text part of such a folder is a folder of its family (`arch.families.gemma3`). The tower's tensors have four layouts: with and
without a level `vision_model`, and with and without `model.` in front. All are read; the one that releases of all years read
is written.
"""

import math
from pathlib import Path
from typing import Any, Literal

from arch import document
from arch.errors import DataError
from arch.model_spec import ModelSpec
from arch.spec import Count, Positive, Spec
from arch.tensors import As, Tensors

SINCE = {"images": "4.50"}  # the first release of `transformers` that has the class
TEXT, TOWER, PROJECTOR = "language_model.model.", "vision_tower.vision_model.", "multi_modal_projector."  # as written
TOWERS = (TOWER, "vision_tower.", "model.vision_tower.vision_model.", "model.vision_tower.")
PROJECTORS = (PROJECTOR, "model.multi_modal_projector.")
EMBEDDING = "embeddings.patch_embedding.weight"
LAYER = {
    "before_attention": "layer_norm1",
    "before_mlp": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


class VisionConfig(Spec):
    """The `vision_config` of a multimodal config.json, with `transformers`' defaults."""

    model_type: Literal["siglip_vision_model"] = "siglip_vision_model"
    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    num_channels: Literal[3] = 3
    image_size: Count = 224
    patch_size: Count = 16
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: Positive = 1e-6


class Config(Spec):
    """What a multimodal config.json says beside its `text_config`."""

    vision_config: VisionConfig
    mm_tokens_per_image: Count = 256
    image_token_index: int = 262_144
    boi_token_index: int = 255_999
    eoi_token_index: int = 256_000

    def vision(self) -> dict[str, Any]:
        """Our tower, as plain data. Frozen, as Gemma 3 was trained."""
        said = self.vision_config
        return {
            "type": "siglip",
            "image_size": said.image_size,
            "patch": said.patch_size,
            "dim": said.hidden_size,
            "layers": said.num_hidden_layers,
            "heads": said.num_attention_heads,
            "hidden": said.intermediate_size,
            "norm_eps": said.layer_norm_eps,
            "tokens": self.mm_tokens_per_image,
            "placeholder": self.image_token_index,
            "start": self.boi_token_index,
            "end": self.eoi_token_index,
        }


def read(config: document.Node) -> dict[str, Any] | None:
    """The tower that a folder's config.json describes, as plain data; None of a text model. Raises SpecError with its line."""
    said = config.value.get("vision_config")
    if said is None or not isinstance(said.value, dict):
        return None
    kept = {key: config.value[key] for key in Config.model_fields if key in config.value}
    kept["vision_config"] = _known(said, VisionConfig)
    return Config.parse(document.Node(kept, config.file, config.line)).vision()


def _known(node, cls):
    return document.Node({k: v for k, v in node.value.items() if k in cls.model_fields}, node.file, node.line)


def check(spec: ModelSpec) -> None:
    """Raises ValueError, in words that follow a class's name, where the class does not compute what a spec with a tower says."""
    vision: Any = spec.vision
    if vision["type"] != "siglip":
        raise ValueError(f"vision: it has SigLIP, and no {vision['type']}")
    if not spec.tie_embeddings:
        raise ValueError("tie_embeddings: its head is the embedding")
    if None in (vision["start"], vision["end"]):
        raise ValueError("vision: it has tokens around an image; expected `start` and `end`")
    windows = [block.mixer["window"] for block in spec.blocks.values() if block.mixer and block.mixer.get("window")]
    longer = any(window < vision["tokens"] for window in windows)
    if vision["spans"] == "causal" or (vision["spans"] == "two_sided" and longer):
        raise ValueError(f"vision.spans: {vision['spans']}, there one_sided")


def written(spec: ModelSpec) -> dict[str, Any]:
    """The keys of a multimodal config.json beside its `text_config`; the inverse of `read`."""
    vision: Any = spec.vision
    said = VisionConfig(
        hidden_size=vision["dim"],
        intermediate_size=vision["hidden"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch"],
        layer_norm_eps=vision["norm_eps"],
    )
    return {
        "model_type": "gemma3",
        "vision_config": {**said.dump(), "vision_use_head": False},
        "mm_tokens_per_image": vision["tokens"],
        "image_token_index": vision["placeholder"],
        "boi_token_index": vision["start"],
        "eoi_token_index": vision["end"],
        "tie_word_embeddings": True,
    }


def processors(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """{file: content} of what `transformers.AutoProcessor` reads: how an image becomes pixels."""
    vision: Any = spec.vision
    image = {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "size": {"height": vision["image_size"], "width": vision["image_size"]},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_seq_length": vision["tokens"],
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
    }
    whole = {"image_seq_length": vision["tokens"], "processor_class": "Gemma3Processor"}
    return {"preprocessor_config.json": image, "processor_config.json": whole}


def has_tower(held: Tensors) -> bool:
    """Whether a checkpoint has a tower's tensors under one of the known names."""
    return any(prefix + EMBEDDING in held.entries for prefix in TOWERS)


def sources(spec: ModelSpec, held: Tensors | None = None, path: Path | str = "") -> dict[str, As]:
    """{our parameter: As} of the tower of a spec, under the names that the checkpoint `held` uses, or as written without one.

    Empty for a spec without a tower. Raises DataError where the checkpoint has no tower.
    """
    vision: Any = spec.vision
    if vision is None:
        return {}
    tower, projector = TOWER, PROJECTOR
    if held is not None:
        if not has_tower(held):
            raise DataError(
                f"{path}: no tensor is called {TOWERS[0]}{EMBEDDING}, or as in another layout: no vision tower", key=None
            )
        tower = next(prefix for prefix in TOWERS if prefix + EMBEDDING in held.entries)
        projector = PROJECTORS[tower.startswith("model.")]
    ours = {
        "encoder.embed.weight": As(tower + EMBEDDING, lambda w: w.flatten(1), _as_kernel),
        "encoder.embed.bias": As(f"{tower}embeddings.patch_embedding.bias"),
        "encoder.positions": As(f"{tower}embeddings.position_embedding.weight"),
        "norm.weight": As(f"{projector}mm_soft_emb_norm.weight"),
        "project.weight": As(f"{projector}mm_input_projection_weight", lambda w: w.t(), lambda w: w.t()),
    }
    for part in ("weight", "bias"):
        ours[f"encoder.norm.{part}"] = As(f"{tower}post_layernorm.{part}")
        for layer in range(vision["layers"]):
            for mine, theirs in LAYER.items():
                ours[f"encoder.layers.{layer}.{mine}.{part}"] = As(f"{tower}encoder.layers.{layer}.{theirs}.{part}")
    return {f"vision.{name}": source for name, source in ours.items()}


def is_head(name: str) -> bool:
    """Whether a tensor belongs to SigLIP's pooling head, which Gemma 3 does not use."""
    return any(name.startswith(f"{prefix}head.") for prefix in TOWERS)


def _as_kernel(weight):
    """A map of patches (D, 3 p p) as the kernel of a convolution, (D, 3, p, p)."""
    side = math.isqrt(weight.shape[1] // 3)
    return weight.unflatten(1, (3, side, side))
