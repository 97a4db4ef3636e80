"""Decoding from a state: one token after another, by temperature, among the likeliest.

Shapes: B rows, T tokens, V vocabulary.
"""

import torch

from arch.errors import DataError


class NonFiniteScores(DataError):
    """The model's scores are not finite."""

    def __init__(self):
        super().__init__(
            "the model's scores are not finite; where float16 overflows (its largest number is 65,504), bfloat16 or float32 "
            "may help (--dtype bfloat16)",
            key=None,
        )


@torch.no_grad()
def sample(model, prompt_BT, tokens, temperature=1.0, top_k=None, top_p=None, seed=0):
    """Yields the next tokens (B,) after the prompt, one at a time, `tokens` of them.

    temperature: 0 takes the likeliest. top_k: only the k likeliest; top_p: only the likeliest that together have
    probability p or more, at least one. Raises NonFiniteScores, and ValueError for a model that sees ahead.
    """
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(prompt_BT.shape[0], prompt_BT.shape[1] + tokens)
    new_BT = prompt_BT
    for _ in range(tokens):
        scores_BTV, state = model.decode(new_BT, state)
        scores_BV = scores_BTV[:, -1].float()
        if not scores_BV.isfinite().all():
            raise NonFiniteScores
        if temperature < torch.finfo(torch.float32).tiny:  # 0, or what a CPU may flush to 0
            new_BT = scores_BV.argmax(dim=-1, keepdim=True)
        else:
            scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / temperature
            p_BV = kept(scores_BV, top_k, top_p).softmax(dim=-1).cpu()
            new_BT = torch.multinomial(p_BV, 1, generator=generator).to(prompt_BT.device)
        yield new_BT[:, 0]


def kept(scores_BV, top_k=None, top_p=None):
    """Scores with -inf for all but the likeliest tokens (see `sample`)."""
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


def generate(model, prompt_BT, tokens, temperature=1.0, top_k=None, top_p=None, seed=0):
    """`tokens` further tokens (B, tokens) after the prompt; arguments and errors as for `sample`."""
    written = list(sample(model, prompt_BT, tokens, temperature, top_k, top_p, seed))
    return torch.stack(written, dim=1) if written else prompt_BT[:, :0]


def writing(model, ids, tokens, temperature=1.0, top_k=None, top_p=None, seed=0):
    """Yields the ids after one prompt (a list of ids), as `sample` does. Raises DataError for what cannot be decoded."""
    if not ids:
        raise DataError("an empty prompt, and no token that begins a text: give some text", key=None)
    if max(ids) >= model.spec.vocab_size:
        raise DataError(f"the tokenizer gives the id {max(ids)}, but the model has {model.spec.vocab_size:,} tokens", key=None)
    try:
        model.init_state(1, 1)
    except ValueError as error:
        raise DataError(str(error), key=None) from None
    prompt_BT = torch.tensor([ids], device=model.embedding.device)
    for next_B in sample(model, prompt_BT, tokens, temperature, top_k, top_p, seed):
        yield int(next_B)
