"""Compare our models with the classes of Hugging Face's `transformers`, on large random weights.

The library's default initial values would hide most differences: scores stay far below a softcap, and norm weights and
biases are zero. Here all norm weights and biases are random, and attention scores and logits exceed their softcaps.
The weights are saved by `save_pretrained` and loaded by `arch.hf.load`, so this also tests the import.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import tempfile
from dataclasses import dataclass, field
from typing import Any

import torch

from arch import families, hf
from arch.errors import DataError, install
from arch.layout import TokenLayout
from experiments.parity.compare import Row, gradients, largest, next_token_loss, relative, worst

BOUND = 1e-4
ROWS, SHORT, LONG, PREFILL = 3, 4, 23, 3  # windows below have 5 keys, or 4 on each side

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 5,
}
LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


@dataclass(frozen=True)
class Case:
    """A small model of a `transformers` class.

    architecture and config: the names of the model's and the config's class. options: of the config. family: the family
    of ours that has its tensor names.
    """

    title: str
    architecture: str
    config: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def sees_ahead(self):
        return bool(self.options.get("use_bidirectional_attention"))


CASES = {
    "gemma2": Case(
        "scale C^-1/2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        "gemma2",
        SMALL | {"num_hidden_layers": 5, "query_pre_attn_scalar": 16},
    ),
    "gemma2-27b": Case(
        "27B's scale, (D/H)^-1/2; one key head",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        "gemma2",
        SMALL | {"num_hidden_layers": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": 12},
    ),
    "gemma3": Case(
        "scale C^-1/2, unscaled positions",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        "gemma3",
        SMALL | {"num_hidden_layers": 8, "query_pre_attn_scalar": 16},
    ),
    "gemma3-27b": Case(
        "27B's scale, (D/H)^-1/2; global positions / 8",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        "gemma3",
        SMALL | {"num_hidden_layers": 7, "query_pre_attn_scalar": 12, "rope_parameters": LINEAR},
    ),
    "gemma3-other": Case(
        "biases, SiLU, an untied head with a softcap",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        "gemma3",
        SMALL
        | {
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "query_pre_attn_scalar": 16,
            "attention_bias": True,
            "hidden_activation": "silu",
            "tie_word_embeddings": False,
            "final_logit_softcapping": 10.0,
        },
    ),
    "recurrentgemma": Case(
        "one key head",
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        "recurrent_gemma",
        {
            "vocab_size": 97,
            "hidden_size": 40,
            "intermediate_size": 128,
            "num_hidden_layers": 7,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "attention_window_size": 5,
        },
    ),
    "embeddinggemma": Case(
        "bidirectional, 4 keys on each side; rows padded left and right",
        "Gemma3TextModel",
        "Gemma3TextConfig",
        "gemma3",
        SMALL
        | {
            "num_hidden_layers": 8,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 16,
            "sliding_window": 8,
            "use_bidirectional_attention": True,
        },
    ),
}


def transformers():
    """The library, with its logs and progress bars off. Raises DataError with the install command if it is missing."""
    try:
        import transformers
    except ImportError:
        raise DataError(f"this compares with `transformers`: {install('parity')}", key=None) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def peer(case, seed=0):
    """The `transformers` model of a case, with eager attention, in float32, with weights from `draw`."""
    library = transformers()
    config = getattr(library, case.config)(**case.options, pad_token_id=0, attn_implementation="eager")
    model = getattr(library, case.architecture)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw(name, weight, generator)
    return model


def draw(name, weight, generator):
    """Fill a weight of the peer with random values.

    Norms: a sub-layer's output stays as large as the residual stream; the final norm makes logits exceed their softcap.
    Linear maps: queries and keys are large enough for scores over 50. Decays: from nearly 0 to nearly 1.
    """
    part = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if part in ("norm", "final_norm"):
        mean, std = 8.0, 2.0
    elif part in ("q_norm", "k_norm"):
        mean, std = 1.5, 0.5
    elif "norm" in part:
        mean, std = 0.0, 0.3
    elif part in ("q_proj", "k_proj"):
        mean, std = 0.0, 0.6
    elif part == "recurrent_param":
        mean, std = -3.0, 2.5
    elif weight.ndim == 1 or name.endswith("bias") or part in ("embed_tokens", "lm_head"):
        mean, std = 0.0, 0.5
    else:
        mean, std = 0.0, weight.shape[-1] ** -0.5
    weight.normal_(mean, std, generator=generator)


def ours(model, spec=None):
    """Our model with the weights of the peer `model`, saved to a folder and imported from it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return hf.load(folder, spec)


def compare(case, alter=None):
    """The Rows of a case. alter: changes our model first, so that a test can show that a detail matters."""
    theirs = peer(case)
    mine = ours(theirs)
    if alter:
        alter(mine)
    against = f"`{case.architecture}`"
    generator = torch.Generator().manual_seed(1)
    if case.sees_ahead:
        return [Row(against, case.title, what, error, BOUND) for what, error in _hidden(theirs, mine, generator)]
    rows = []
    for tokens in (SHORT, LONG):
        tokens_BT = torch.randint(1, theirs.config.vocab_size, (ROWS, tokens), generator=generator)
        rows += [Row(against, case.title, what, error, BOUND) for what, error in _trained(case, theirs, mine, tokens_BT)]
    return [*rows, Row(against, case.title, "decoding", _decoded(theirs, mine, tokens_BT), BOUND)]


def _trained(case, theirs, mine, tokens_BT):
    theirs.zero_grad()
    mine.zero_grad()
    wanted = theirs(tokens_BT, labels=tokens_BT, use_cache=False)
    wanted.loss.backward()
    logits_BTV = mine(tokens_BT)
    loss = next_token_loss(logits_BTV, tokens_BT)
    loss.backward()
    yield "logits", largest(logits_BTV, wanted.logits)
    yield "loss", relative(loss, wanted.loss)
    yield "gradients", gradients(mine, translated(case, theirs, mine))


def translated(case, theirs, mine):
    """The peer's gradients under our parameter names."""
    held = {name: weight.grad for name, weight in theirs.named_parameters()}
    named = families.table(families.named(case.family), mine.spec, [name for name, _ in mine.named_parameters()])
    return {name: source.read(held[source.name]) for name, source in named.items()}


@torch.no_grad()
def _decoded(theirs, mine, tokens_BT):
    """Decode token by token from a cache. The peer gets a cache object; without one, one class ignores its window."""
    cache = transformers().DynamicCache(config=theirs.config)
    state = mine.init_state(*tokens_BT.shape)
    errors = []
    pieces = [tokens_BT[:, :PREFILL], *tokens_BT[:, PREFILL:].split(1, dim=1)]
    for piece_BT in pieces:
        wanted_BTV = theirs(piece_BT, past_key_values=cache, use_cache=True).logits
        logits_BTV, state = mine.decode(piece_BT, state)
        errors.append(largest(logits_BTV[:, -1], wanted_BTV[:, -1]))
    return worst(errors)


@torch.no_grad()
def _hidden(theirs, mine, generator):
    """Compare hidden states of real tokens, in rows of different lengths that are padded on either side."""
    lengths_B = torch.tensor([LONG, 1, 9])
    tokens_BT = torch.randint(1, theirs.config.vocab_size, (len(lengths_B), LONG), generator=generator)
    index_T = torch.arange(LONG)
    for side in ("right", "left"):
        real_BT = index_T < lengths_B[:, None] if side == "right" else index_T >= LONG - lengths_B[:, None]
        wanted_BTD = theirs(tokens_BT, attention_mask=real_BT.long()).last_hidden_state
        hidden_BTD, _ = mine.trunk(tokens_BT, TokenLayout.packed(torch.where(real_BT, 0, -1)))
        yield "hidden states", largest(hidden_BTD[real_BT], wanted_BTD[real_BT])
    whole_BTD = theirs(tokens_BT[:, :SHORT]).last_hidden_state
    yield "hidden states", largest(mine.trunk(tokens_BT[:, :SHORT])[0], whole_BTD)
