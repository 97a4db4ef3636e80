"""What llama.cpp computes under the names gemma2, gemma3 and gemma-embedding, and which of our models that is, exactly.

Its source decides: `src/models/gemma2.cpp`, `gemma3.cpp`, `gemma-embedding.cpp`, `src/llama-model.cpp` in llama-cpp-python 0.3.36.
What a file cannot say is built into the architecture: sandwich norms, GeGLU, embeddings scaled by sqrt(D), norms on queries and
keys, which layers are global. (The newest releases read another order of layers from a file; older ones ignore it without a word.)
RMSNorm multiplies by the stored weight there, so 1 + w is stored.
"""

import math
from dataclasses import dataclass
from typing import Any

from arch.model_spec import SUBLAYER_NAME, ModelSpec
from arch.remarks import explicit
from arch.spec import spelt

LAYERS = 512  # the most that llama.cpp loads
POOLS = {"mean": 1, "first": 2, "last": 3}


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's.

    name: in a file. period: one layer of so many, the last, is global. large: a model of this many
    layers scales queries by (D / heads)^-1/2, any other by head_dim^-1/2. caps: whether scores and logits have a softcap.
    """

    name: str
    period: int
    large: int | None
    causal: bool
    qk_norm: bool
    caps: bool


GEMMA2 = Architecture("gemma2", 2, 46, causal=True, qk_norm=False, caps=True)
GEMMA3 = Architecture("gemma3", 6, 62, causal=True, qk_norm=True, caps=False)
EMBEDDING = Architecture("gemma-embedding", 6, None, causal=False, qk_norm=True, caps=False)

TOP = {"embedding": "token_embd", "norm.weight": "output_norm", "head.weight": "output"}
TOP |= {f"project.{number}.weight": f"dense_{number + 2}" for number in range(2)}
LAYER = {
    "mixer.before": "attn_norm",
    "mixer.component.q": "attn_q",
    "mixer.component.k": "attn_k",
    "mixer.component.v": "attn_v",
    "mixer.component.q_norm": "attn_q_norm",
    "mixer.component.k_norm": "attn_k_norm",
    "mixer.component.o": "attn_output",
    "mixer.after": "post_attention_norm",
    "ffn.before": "ffn_norm",
    "ffn.component.gate": "ffn_gate",
    "ffn.component.up": "ffn_up",
    "ffn.component.down": "ffn_down",
    "ffn.after": "post_ffw_norm",
}


def place(name: str) -> str:
    """The name in a file of a parameter of a model that `architecture` accepts."""
    if match := SUBLAYER_NAME.fullmatch(name):
        layer, kind, rest = match.groups()
        part = LAYER[f"{kind}.{rest.removesuffix('.weight')}"]
        return f"blk.{layer}.{part}.weight"
    return f"{TOP[name]}.weight"


def architecture(spec: ModelSpec) -> Architecture:
    """Which architecture computes exactly this resolved ModelSpec; how its weights are rounded does not count.

    Raises ValueError, `KEY: reason`, where none does.
    """
    for key in ("encoder", "vision"):
        if getattr(spec, key) is not None:
            raise ValueError(f"{key}: GGUF files are of one stack that reads text; expected null")
    layers = [explicit(spec, name) for name in spec.layer_blocks()]
    mixer = layers[0]["mixer"] or {}
    found = EMBEDDING if spec.pool is not None else GEMMA3 if mixer.get("qk_norm") else GEMMA2
    if found is GEMMA2 and mixer.get("type") == "attention" and mixer["softcap"] is None:
        reason = "llama.cpp's gemma3 has it, and its gemma2 has a softcap instead; this model has neither"
        raise ValueError(f"blocks.{spec.layer_blocks()[0]}.mixer.qk_norm: {reason}")
    for name in dict.fromkeys(spec.layer_blocks()):
        _check_block(explicit(spec, name), layers[0], found, spec, f"blocks.{name}")
    _check_windows(layers, found, spec.layer_blocks())
    if spec.embed_scale != "sqrt_dim":
        raise ValueError(f"embed_scale: llama.cpp's {found.name} scales by sqrt_dim, not {spec.embed_scale}")
    if found is GEMMA2 and not spec.tie_embeddings:
        raise ValueError("tie_embeddings: the head of llama.cpp's gemma2 is the embedding; expected true")
    if found is GEMMA2 and spec.logit_softcap is None:
        raise ValueError("logit_softcap: llama.cpp's gemma2 always has one; expected a number")
    if spec.layers > LAYERS:
        raise ValueError(f"layers: llama.cpp has at most {LAYERS}, not {spec.layers:,}")
    if spec.pool is not None and spec.pool["type"] not in POOLS:
        raise ValueError(f"pool: llama.cpp has {', '.join(POOLS)}, not {spec.pool['type']}")
    if len(spec.project) > 2 or spec.project[1:] not in ((), (spec.dim,)):
        widths = ", ".join(map(str, spec.project))
        raise ValueError(f"project: llama.cpp has at most two maps, the second to dim = {spec.dim}; got [{widths}]")
    return found


def _check_block(block, first, found, spec, place):
    """Raises ValueError unless a block, with its defaults written out, is what the architecture computes in every layer."""
    mixer, ffn = (first[kind] or {} for kind in ("mixer", "ffn"))
    wanted = {
        "cross": None,
        "mixer.type": "attention",
        "ffn.type": "gated",
        "norm": "sandwich",
        "mixer.causal": found.causal,
        "mixer.qk_norm": found.qk_norm,
        "mixer.bias": False,
        "mixer.output_bias": False,
        "mixer.rope.fraction": 1.0,
        "ffn.activation": "gelu_tanh",
        "ffn.bias": False,
        "mixer.softcap": mixer.get("softcap") if found.caps else None,
        # One number for all layers.
        **{f"mixer.{key}": mixer.get(key) for key in ("heads", "kv_heads", "head_dim")},
        "ffn.hidden": ffn.get("hidden"),
    }
    for key, value in wanted.items():
        got: Any = block
        for part in key.split("."):
            got = got.get(part) if isinstance(got, dict) else None
        if got != value:
            raise ValueError(f"{place}.{key}: llama.cpp's {found.name} has {spelt(value)} in every layer, not {spelt(got)}")
    ours, theirs = block["mixer"]["query_scale"], _query_scale(found, spec, mixer)
    if not math.isclose(ours, theirs, rel_tol=1e-6):
        said = f"llama.cpp's {found.name} of {spec.layers} layers scales by {theirs:g}, not {ours:g}"
        raise ValueError(f"{place}.mixer.query_scale: {said}")


def _query_scale(found, spec, mixer):
    return (spec.dim // mixer["heads"] if spec.layers == found.large else mixer["head_dim"]) ** -0.5


def _check_windows(layers, found, names):
    """Raises ValueError unless layers with a window are alike, and those without, and there is what the architecture needs."""
    kinds: dict[bool, Any] = {}
    for block, name in zip(layers, names, strict=True):
        mixer, place = block["mixer"], f"blocks.{name}.mixer"
        window, rope = mixer["window"], mixer["rope"]
        other = kinds.setdefault(window is None, mixer)
        for key in ("window", "rope"):
            if mixer[key] != other[key]:
                layers_of_it = f"the layers {'without' if window is None else 'with'} a window"
                said = f"{spelt(other[key])} in one layer and {spelt(mixer[key])} in another"
                raise ValueError(f"{place}.{key}: a GGUF file has one for {layers_of_it}; {said}")
        if isinstance(window, dict) and window["before"] != window["after"]:
            raise ValueError(f"{place}.window: llama.cpp's {found.name} sees as far ahead as back, not {spelt(window)}")
        if window is not None and found is not GEMMA2 and rope["scale"] != 1:
            said = "scales no positions in layers with a window; expected 1"
            raise ValueError(f"{place}.rope.scale: llama.cpp's {found.name} {said}")
    if len(kinds) < 2 and (found is not GEMMA3 or False in kinds):
        both = "expected layers with a window and layers without"
        raise ValueError(f"blocks.{names[0]}.mixer.window: llama.cpp's {found.name} has both kinds of layers; {both}")
    local = [block["mixer"]["window"] is not None for block in layers]
    if any(local) and local != [i % found.period < found.period - 1 for i in range(len(layers))]:
        reason = f"llama.cpp's {found.name} has a global layer at every place that {found.period} divides, and no other"
        raise ValueError(f"pattern: {reason}")
    if found is GEMMA2 and kinds[False]["rope"]["scale"] != kinds[True]["rope"]["scale"]:
        raise ValueError(f"blocks.{names[0]}.mixer.rope.scale: llama.cpp's gemma2 has one for all layers; expected the same")


def metadata(spec: ModelSpec, context: int) -> dict[str, Any]:
    """What a file says of a resolved ModelSpec, beside its vocabulary. context: tokens. Raises ValueError, as `architecture`."""
    found = architecture(spec)
    layers = [explicit(spec, name) for name in spec.layer_blocks()]
    mixers = [block["mixer"] for block in layers]
    mixer = mixers[0]
    local = next((each for each in mixers if each["window"] is not None), None)
    whole = next(each for each in mixers if each["window"] is None)
    own: dict[str, Any] = {
        "context_length": context,
        "embedding_length": spec.dim,
        "block_count": spec.layers,
        "feed_forward_length": layers[0]["ffn"]["hidden"],
        "attention.head_count": mixer["heads"],
        "attention.head_count_kv": mixer["kv_heads"],
        "attention.key_length": mixer["head_dim"],
        "attention.value_length": mixer["head_dim"],
        "attention.layer_norm_rms_epsilon": float(spec.norm_eps),
        "rope.freq_base": float(whole["rope"]["theta"]),
        "vocab_size": spec.vocab_size,
    }
    if whole["rope"]["scale"] != 1:
        own |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(whole["rope"]["scale"])}
    if local is not None:
        window = local["window"]
        own["attention.sliding_window"] = 2 * window["before"] if isinstance(window, dict) else window
        own["rope.freq_base_swa"] = float(local["rope"]["theta"])
    if found.caps:
        own["attn_logit_softcapping"] = float(mixer["softcap"])
    if spec.logit_softcap is not None:
        own["final_logit_softcapping"] = float(spec.logit_softcap)
    if spec.pool is not None:
        own |= {"attention.causal": False, "pooling_type": POOLS[spec.pool["type"]]}
        widths = (spec.dim, *spec.project)
        for number in range(len(spec.project)):
            own |= {f"dense_{number + 2}_feat_in": widths[number], f"dense_{number + 2}_feat_out": widths[number + 1]}
        if spec.vector_dim != spec.dim:
            own["embedding_length_out"] = spec.vector_dim
    general = {"general.architecture": found.name, "general.type": "model"}
    return general | {f"{found.name}.{key}": value for key, value in own.items()}
