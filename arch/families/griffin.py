"""Griffin, Hawk and RecurrentGemma in weights files of the reference code (google-deepmind/recurrentgemma, torch).

Such a file has no config, so it needs a spec. The reference code's window argument W admits W + 1 keys: for a W of 2048
the spec says 2049.
"""

from arch.tensors import As

NAMES = {
    "embedding": "embedder.input_embedding",
    "norm.weight": "final_norm.scale",
    "blocks.*.mixer.before.weight": "blocks.*.temporal_pre_norm.scale",
    "blocks.*.ffn.before.weight": "blocks.*.channel_pre_norm.scale",
    "blocks.*.mixer.rg_lru.conv.weight": "blocks.*.recurrent_block.conv_1d.w",
    "blocks.*.mixer.rg_lru.conv.bias": "blocks.*.recurrent_block.conv_1d.b",
    "blocks.*.mixer.rg_lru.recurrence_gate.weight": "blocks.*.recurrent_block.rg_lru.a_gate.w",
    "blocks.*.mixer.rg_lru.recurrence_gate.bias": "blocks.*.recurrent_block.rg_lru.a_gate.b",
    "blocks.*.mixer.rg_lru.input_gate.weight": "blocks.*.recurrent_block.rg_lru.input_gate.w",
    "blocks.*.mixer.rg_lru.input_gate.bias": "blocks.*.recurrent_block.rg_lru.input_gate.b",
    "blocks.*.mixer.rg_lru.decay": As("blocks.*.recurrent_block.rg_lru.a_param", lambda L_R: -L_R),
    "blocks.*.ffn.gated.gate.weight": As("blocks.*.mlp_block.ffw_up.w", lambda w_2DF: w_2DF[0].T),
    "blocks.*.ffn.gated.up.weight": As("blocks.*.mlp_block.ffw_up.w", lambda w_2DF: w_2DF[1].T),
    "blocks.*.ffn.gated.gate.bias": As("blocks.*.mlp_block.ffw_up.b", lambda b_211F: b_211F[0].flatten()),
    "blocks.*.ffn.gated.up.bias": As("blocks.*.mlp_block.ffw_up.b", lambda b_211F: b_211F[1].flatten()),
}
PARTS = {
    "mixer.rg_lru.x": "recurrent_block.linear_x",
    "mixer.rg_lru.y": "recurrent_block.linear_y",
    "mixer.rg_lru.o": "recurrent_block.linear_out",
    "mixer.attention.q": "attention_block.proj_q",
    "mixer.attention.k": "attention_block.proj_k",
    "mixer.attention.v": "attention_block.proj_v",
    "mixer.attention.o": "attention_block.proj_final",
    "ffn.gated.down": "mlp_block.ffw_down",
}
NAMES |= {f"blocks.*.{ours}.{kind}": f"blocks.*.{theirs}.{kind}" for ours, theirs in PARTS.items() for kind in ("weight", "bias")}
