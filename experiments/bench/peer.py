"""The peer: the same model in `transformers`."""

from collections import Counter

from arch.errors import SpecError

INSTALL = "pip install -e '.[parity]'"


def new_peer(spec):
    """The `transformers` model of a resolved ModelSpec, on the CPU in float32, with drawn weights.

    Gemma 2 runs its `eager` attention, the only one there that keeps the softcap; the others SDPA. Raises SpecError
    where transformers is missing or has no such model.
    """
    try:
        import transformers
    except ImportError:
        raise SpecError(f"--against hf needs the package transformers: {INSTALL}") from None
    transformers.logging.set_verbosity_error()
    architecture, options = peer_options(spec)
    config = getattr(transformers, architecture.config)(**options)
    return getattr(transformers, architecture.model)(config)


def check_same(ours, theirs, name):
    """Raises SpecError unless both modules have as many parameters in tensors of the same sizes."""
    if sizes(ours) != sizes(theirs):
        counts = [sum(weight.numel() for weight in module.parameters()) for module in (ours, theirs)]
        differing = sorted((sizes(ours) - sizes(theirs)).keys() | (sizes(theirs) - sizes(ours)).keys())
        raise SpecError(
            f"{name}: the peer is another model: {counts[0]:,} parameters here, {counts[1]:,} there; sizes that only "
            f"one of them has: {', '.join('x'.join(map(str, size)) for size in differing)}"
        )


def sizes(module):
    """How many parameters there are of each size, whatever the order of their axes."""
    return Counter(tuple(sorted(size for size in weight.shape if size > 1)) for weight in module.parameters())


class _Gemma3:
    config, model = "Gemma3TextConfig", "Gemma3ForCausalLM"


class _Gemma2:
    config, model = "Gemma2Config", "Gemma2ForCausalLM"


class _RecurrentGemma:
    config, model = "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM"


def peer_options(spec):
    """The class of model that a resolved spec is in `transformers`, and its configuration's arguments.

    Only the three families that the benchmark compares; `check_same` finds what this does not translate.
    """
    blocks = [spec.blocks[name] for name in spec.layer_blocks()]
    mixers = [block.mixer or {} for block in blocks]
    attention = next((mixer for mixer in mixers if mixer.get("type") == "attention"), None)
    if attention is None or any(mixer.get("type") not in ("attention", "rg_lru") for mixer in mixers):
        raise SpecError("--against hf: transformers has no such model; it has Gemma 2, Gemma 3 and RecurrentGemma")
    window = next((mixer["window"] for mixer in mixers if mixer.get("window")), None)
    channels = attention["head_dim"] or spec.dim // attention["heads"]
    options = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": attention["heads"],
        "num_key_value_heads": attention["kv_heads"],
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
    }
    hidden = blocks[0].ffn["hidden"]
    if any(mixer["type"] == "rg_lru" for mixer in mixers):
        types = ["recurrent" if mixer["type"] == "rg_lru" else "attention" for mixer in mixers]
        return _RecurrentGemma, options | {
            "intermediate_size": 2 * hidden,
            "attention_window_size": window,
            "block_types": types,
            "logits_soft_cap": spec.logit_softcap,
            "attn_implementation": "sdpa",
        }
    options |= {
        "intermediate_size": hidden,
        "head_dim": channels,
        "sliding_window": window,
        "layer_types": ["sliding_attention" if mixer["window"] else "full_attention" for mixer in mixers],
        "query_pre_attn_scalar": round((attention["query_scale"] or channels**-0.5) ** -2),
        "final_logit_softcapping": spec.logit_softcap,
        "attn_logit_softcapping": attention["softcap"],
    }
    if attention["qk_norm"]:
        ropes = {"sliding_attention" if mixer["window"] else "full_attention": _rope(mixer["rope"]) for mixer in mixers}
        return _Gemma3, options | {"rope_parameters": ropes, "attn_implementation": "sdpa"}
    return _Gemma2, options | {"rope_parameters": _rope(attention["rope"]), "attn_implementation": "eager"}


def _rope(rope):
    if rope["scale"] == 1:
        return {"rope_type": "default", "rope_theta": rope["theta"]}
    return {"rope_type": "linear", "rope_theta": rope["theta"], "factor": rope["scale"]}
