"""Our weights as a GGUF file, the format of llama.cpp, for the models that it computes exactly: Gemma 2 and Gemma 3.

Matrices are written in the model's type, float32 or bfloat16; norms in float32, as 1 + w. There is no vocabulary: tokens
are numbers.
"""

from pathlib import Path
from typing import Any

import torch

from arch.errors import SpecError

ARCHITECTURES = {"gemma2": 2, "gemma3": 6}  # {name in GGUF: every so manieth layer is global}
PLACES = {
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


def architecture(spec: Any) -> str:
    """The architecture's name in GGUF. Raises SpecError if llama.cpp does not compute exactly this model."""
    from experiments.bench.peer import expressed

    name = expressed(spec).written()["model_type"].removesuffix("_text")
    if name not in ARCHITECTURES:
        raise SpecError(f"llama.cpp is measured for {' and '.join(ARCHITECTURES)} only; this is {name}", ("against",))
    attention = [spec.blocks[block].mixer for block in spec.layer_blocks()]
    kinds = [each["window"] is None for each in attention]
    if kinds != [(i + 1) % ARCHITECTURES[name] == 0 for i in range(spec.layers)]:
        raise SpecError(
            f"llama.cpp's {name} has a global layer at every {ARCHITECTURES[name]}th place; this has others", ("against",)
        )
    if any(each["query_scale"] is not None for each in attention):
        raise SpecError("llama.cpp takes the scale of queries from the width of a head", ("against",))
    return name


def write(model: Any, path: Path, capacity: int) -> None:
    """Write the weights. capacity: the longest stream. Raises SpecError as `architecture` does."""
    import gguf

    spec, name = model.spec, architecture(model.spec)
    writer = gguf.GGUFWriter(path, name)
    local, last = (spec.blocks[spec.layer_blocks()[i]] for i in (0, ARCHITECTURES[name] - 1))
    mixer, channels = local.mixer, local.mixer["head_dim"] or spec.dim // local.mixer["heads"]
    writer.add_context_length(capacity)
    writer.add_embedding_length(spec.dim)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(local.ffn["hidden"])
    writer.add_head_count(mixer["heads"])
    writer.add_head_count_kv(mixer["kv_heads"])
    writer.add_key_length(channels)
    writer.add_value_length(channels)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_sliding_window(mixer["window"])
    writer.add_rope_freq_base(last.mixer["rope"]["theta"])
    if name == "gemma3":
        writer.add_rope_freq_base_swa(mixer["rope"]["theta"])
        if last.mixer["rope"]["scale"] != 1:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(last.mixer["rope"]["scale"])
    if mixer["softcap"] is not None:
        writer.add_attn_logit_softcapping(mixer["softcap"])
    if spec.logit_softcap is not None:
        writer.add_final_logit_softcapping(spec.logit_softcap)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for place, weight in _tensors(model):
        bits = weight.detach().contiguous()
        if weight.dtype is torch.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(place, bits.view(torch.uint8).numpy(), raw_dtype=kind)
        else:
            writer.add_tensor(place, bits.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model):
    """(name in GGUF, tensor) of every parameter."""
    yield "token_embd.weight", model.embedding
    yield "output_norm.weight", 1 + model.norm.weight.float()
    if model.head is not None:
        yield "output.weight", model.head.weight
    for i, block in enumerate(model.blocks):
        for ours, theirs in PLACES.items():
            try:
                weight = block.get_submodule(ours).weight
            except AttributeError:  # Gemma 2 has no norms on queries and keys
                continue
            yield f"blk.{i}.{theirs}.weight", weight if weight.ndim == 2 else 1 + weight.float()
