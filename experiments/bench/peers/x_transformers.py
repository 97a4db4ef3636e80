"""A model of the same sizes in x-transformers (MIT), compiled: another model, for it has no windows and other norms."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arch.errors import SpecError


def new_model(spec: Any, context: int) -> torch.nn.Module:
    """A decoder with the spec's width, depth, heads and ffn, for rows of `context` tokens; all layers see the whole row.

    Raises SpecError for a model without attention and gated ffn in every layer.
    """
    from x_transformers import Decoder, TransformerWrapper

    blocks = [spec.blocks[name] for name in spec.layer_blocks()]
    if any((block.mixer or {}).get("type") != "attention" or (block.ffn or {}).get("type") != "gated" for block in blocks):
        raise SpecError("x-transformers is measured for models of attention and gated ffns only", ("against",))
    mixer, ffn = blocks[0].mixer, blocks[0].ffn
    layers = Decoder(
        dim=spec.dim,
        depth=spec.layers,
        heads=mixer["heads"],
        attn_dim_head=mixer["head_dim"] or spec.dim // mixer["heads"],
        attn_kv_heads=mixer["kv_heads"],
        attn_flash=True,
        attn_qk_norm=mixer["qk_norm"],
        ff_glu=True,
        ff_mult=ffn["hidden"] / spec.dim,
        ff_no_bias=True,
        use_rmsnorm=True,
        rotary_pos_emb=True,
    )
    wrapped = {"tie_embedding": spec.tie_embeddings, "use_abs_pos_emb": False}
    return TransformerWrapper(num_tokens=spec.vocab_size, max_seq_len=context, attn_layers=layers, **wrapped)


def mean_loss(model: torch.nn.Module, tokens_BT: Tensor) -> Callable[[], Tensor]:
    """A function that computes a step's loss."""
    compiled = torch.compile(model)
    return lambda: F.cross_entropy(compiled(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())
