"""Decoding from a state: one token after another, by temperature.

Shapes: B rows, T tokens, V vocabulary.
"""

import torch


@torch.no_grad()
def generate(model, prompt_BT, tokens, temperature=1.0, seed=0):
    """`tokens` further tokens (B, tokens) after the prompt. Temperature 0 takes the likeliest.

    Raises ValueError if the model's scores are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(prompt_BT.shape[0], prompt_BT.shape[1] + tokens)
    scores_BTV, state = model.decode(prompt_BT, state)
    written = []
    for _ in range(tokens):
        scores_BV = scores_BTV[:, -1].float()
        if not scores_BV.isfinite().all():
            raise ValueError("the model's scores are not finite; bfloat16 or float32 may help where float16 overflows")
        if temperature == 0:
            next_B1 = scores_BV.argmax(dim=-1, keepdim=True)
        else:
            p_BV = (scores_BV / temperature).softmax(dim=-1).cpu()
            next_B1 = torch.multinomial(p_BV, 1, generator=generator).to(prompt_BT.device)
        written.append(next_B1)
        scores_BTV, state = model.decode(next_B1, state)
    return torch.cat(written, dim=1) if written else prompt_BT[:, :0]
