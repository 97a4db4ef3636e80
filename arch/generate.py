"""Sampling from a model: read the prompt in chunks, then decode token by token with temperature, top-k and top-p.

Shapes: B rows, T tokens, V vocabulary.
"""

from typing import NamedTuple

import torch

from arch.errors import DataError
from arch.layout import TokenLayout

# Prompt tokens per forward pass. A window's ring is small, but a layer's activations grow with the tokens of a pass.
CHUNK = 512


class Shown(NamedTuple):
    """The images of prompts. image_BT: as of `TokenLayout`. pixels_BI3SS: of each row the images in their order."""

    image_BT: torch.Tensor
    pixels_BI3SS: torch.Tensor


class NonFiniteScores(DataError):
    """The model's logits are not finite."""

    def __init__(self):
        super().__init__(
            "the model's scores are not finite; where float16 overflows (its largest number is 65,504), bfloat16 or float32 "
            "may help (--dtype bfloat16)",
            key=None,
        )


@torch.no_grad()
def prefill(model, prompt_BT, state, lengths_B=None, chunk=CHUNK, shown=None):
    """(scores_BV, state): the logits of the token after the prompt, and the state after the prompt.

    The prompt is read `chunk` tokens at a time, so only the state grows with the prompt. The head sees only the last
    token. state: an empty one with room for the prompt; do not use it afterwards. lengths_B: the length of each row's
    prompt, where they differ; rows are padded on the left. shown: the images of the prompt, `Shown`; an image is read in one
    chunk, however long it is. Raises ValueError for lengths that do not fit the prompt.
    """
    rows, tokens = prompt_BT.shape
    lengths = [tokens] * rows if lengths_B is None else lengths_B.tolist()
    if len(lengths) != rows or not all(1 <= length <= tokens for length in lengths):
        raise ValueError(f"{rows} prompts of 1 to {tokens} tokens cannot have the lengths {lengths}")
    if lengths_B is None:
        layout = TokenLayout.whole(rows, tokens, prompt_BT.device)
    else:
        layout = TokenLayout.left_padded(lengths_B, tokens)
    inputs = prompt_BT
    if shown is not None:
        layout = layout.with_images(shown.image_BT)
        inputs = model.embed_with_images(prompt_BT, layout, shown.pixels_BI3SS)
        layout = layout.seeing(model.vision.config.spans)
    for start, stop in chunks(layout, tokens, chunk):
        hidden_BTD, state = model.trunk(inputs[:, start:stop], layout.part(start, stop), state)
    return model.logits(hidden_BTD[:, -1:])[:, 0], state


def chunks(layout, tokens, chunk):
    """Yield (start, stop) of chunks of at most so many tokens that cut no image; longer where one is too long for a chunk."""
    start = 0
    while start < tokens:
        most = min(start + chunk, tokens)
        shorter = (place for place in range(most, start, -1) if layout.may_cut(place))
        longer = (place for place in range(most + 1, tokens + 1) if layout.may_cut(place))
        stop = next(shorter, None) or next(longer)
        yield start, stop
        start = stop


@torch.no_grad()
def sample(
    model,
    prompt_BT,
    tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    lengths_B=None,
    shown=None,
    uniform_BS=None,
    blind=None,
    encoded=None,
):
    """Yield `tokens` tokens after the prompt, one (B,) tensor per step.

    temperature: 0 takes the likeliest token. top_k: sample only among the k likeliest. top_p: sample only among the
    fewest likeliest tokens whose probabilities add up to p or more. lengths_B, shown: as for `prefill`. uniform_BS: a
    number in [0, 1) for each row and step that decides the draw, so that a row does not depend on those beside it; without it, the
    seed decides all draws together. blind: a token that the model reads in place of each one that it wrote, if it was trained to
    answer so. encoded: the source that the decoder of two stacks reads (`Model.read`). Raises NonFiniteScores, and ValueError for a
    non-causal model and for lengths that do not fit the prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(prompt_BT.shape[0], prompt_BT.shape[1] + tokens, encoded)
    new_B1 = None
    for step in range(tokens):
        if new_B1 is None:
            scores_BV, state = prefill(model, prompt_BT, state, lengths_B, shown=shown)
        else:
            read_B1 = new_B1 if blind is None else torch.full_like(new_B1, blind)
            scores_B1V, state = model.decode(read_B1, state, _next(lengths_B, step))
            scores_BV = scores_B1V[:, 0]
        scores_BV = scores_BV.float()
        if not scores_BV.isfinite().all():
            raise NonFiniteScores
        if temperature < torch.finfo(torch.float32).tiny:  # 0, or a denormal that the CPU may flush to 0
            new_B1 = scores_BV.argmax(dim=-1, keepdim=True)
        else:
            scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / temperature
            p_BV = kept(scores_BV, top_k, top_p).softmax(dim=-1)
            if uniform_BS is None:
                new_B1 = torch.multinomial(p_BV.cpu(), 1, generator=generator).to(prompt_BT.device)
            else:
                new_B1 = drawn(p_BV, uniform_BS[:, step])
        yield new_B1[:, 0]


def drawn(p_BV, uniform_B):
    """The token (B, 1) at which the cumulated probability first exceeds a number in [0, 1): a draw, of one row alone."""
    total_BV = p_BV.double().cumsum(dim=-1)
    return torch.searchsorted(total_BV, total_BV[:, -1:] * uniform_B[:, None].to(total_BV), right=True).clamp(
        max=p_BV.shape[-1] - 1
    )


def _next(lengths_B, step):
    """The layout of the token decoded in step `step` >= 1; None where all prompts have the same length."""
    if lengths_B is None:
        return None
    pos_B1 = lengths_B[:, None] + (step - 1)
    return TokenLayout(torch.zeros_like(pos_B1), pos_B1)


def kept(scores_BV, top_k=None, top_p=None):
    """Scores with -inf for every token that top_k and top_p exclude (see `sample`)."""
    if top_k is not None and top_k < scores_BV.shape[-1]:
        least_B1 = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, float("-inf"))
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = scores_BV.sort(dim=-1, descending=True, stable=True)
        p_BV = sorted_BV.softmax(dim=-1)
        before_BV = p_BV.cumsum(dim=-1) - p_BV
        dropped_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, (before_BV >= top_p) & (before_BV > 0))
        scores_BV = scores_BV.masked_fill(dropped_BV, float("-inf"))
    return scores_BV


def generate(model, prompt_BT, tokens, temperature=1.0, top_k=None, top_p=None, seed=0, lengths_B=None, shown=None, encoded=None):
    """The next `tokens` tokens after the prompt, (B, tokens); arguments and errors as for `sample`."""
    written = list(sample(model, prompt_BT, tokens, temperature, top_k, top_p, seed, lengths_B, shown, encoded=encoded))
    return torch.stack(written, dim=1) if written else prompt_BT[:, :0]


def writing(model, ids, tokens, temperature=1.0, top_k=None, top_p=None, seed=0, shown=None, blind=None, begin=None):
    """Yield the ids that `sample` gives after one prompt, a list of ids, with its images; `blind` as there.

    An encoder reads the prompt, and its decoder writes from the token that begins a text, `begin`. Raises DataError for an empty
    prompt, an id outside the vocabulary, a non-causal model, or non-finite logits.
    """
    if not ids:
        raise DataError("an empty prompt, and no token that begins a text: give some text", key=None)
    if max(ids) >= model.spec.vocab_size:
        raise DataError(f"the tokenizer gives the id {max(ids)}, but the model has {model.spec.vocab_size:,} tokens", key=None)
    prompt_BT, encoded = torch.tensor([ids], device=model.embedding.device), None
    if model.encoder is not None:
        if begin is None:
            raise DataError("no token that begins a text, from which the decoder could write", key=None)
        with torch.no_grad():
            encoded, prompt_BT = model.read(prompt_BT), torch.full_like(prompt_BT[:, :1], begin)
    try:
        model.init_state(1, 1, encoded)
    except ValueError as error:
        raise DataError(str(error), key=None) from None
    for next_B in sample(model, prompt_BT, tokens, temperature, top_k, top_p, seed, shown=shown, blind=blind, encoded=encoded):
        yield int(next_B)
