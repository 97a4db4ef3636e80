"""Answers that a model writes to the prompts of rows, as rows that it, or another model, can be trained on.

A draw depends on the row's number (which says seed and step), on which of several answers of the row it is, and on the place in
the answer; not on the rows beside it. So neither micro-batches nor devices change an answer, but where two tokens are so nearly
as probable that the rounding of logits decides.

Shapes: B rows, T tokens of a row, P of the longest prompt, A of the longest answer, K answers of each prompt.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from arch.errors import DataError
from arch.generate import sample
from arch.kernels.cross_entropy import cross_entropies
from arch.layout import TokenLayout
from arch.model import Model
from arch.spec import Count
from experiments.data.batch import Batch, Rows
from experiments.data.draws import Draws, mixed, numbered_key
from experiments.data.exchanges import Exchanges, answers_only, laid
from experiments.distillation.teacher import TOKENS

WHOLE = ("train", "strategy")

# Options of whoever asks for answers: the temperature at which they are drawn, and the most tokens of one.
Temperature = Annotated[float, Field(ge=0, le=4)]
Length = Count | None


class Answers(NamedTuple):
    """rows: prompts with these answers, of which alone the tokens are targets. texts: of the answers. ended_B: whether each
    ended."""

    rows: Rows
    texts: list[str]
    ended_B: Tensor

    def part(self, which: Tensor) -> Answers:
        """Some of them, by their numbers."""
        return Answers(self.rows.part(which), [self.texts[number] for number in which.tolist()], self.ended_B[which])


@torch.no_grad()
def answers(
    model: Model, rows: Rows, dataset: Exchanges, temperature: float, tokens: int | None = None, several: int = 1, first: int = 0
) -> Answers:
    """`several` answers to each row's prompt, those of a row one after the other: (B * K) rows.

    temperature: 0 takes the likeliest token. tokens: the most of an answer, by default as many as fit behind the longest
    prompt. first: the number of the first answer of a row; answers with other numbers are drawn anew. Raises DataError for scores
    that are not finite.
    """
    assert rows.key_B is not None
    device, (_, width) = rows.tokens_BT.device, rows.tokens_BT.shape
    start_B = rows.extra["start"].repeat_interleave(several)
    room = max(dataset.prompt_tokens, int(start_B.max()))
    longest = width + 1 - room
    tokens_BT = rows.tokens_BT.repeat_interleave(several, 0)
    most = min(longest, tokens or longest)
    uniform_BA = _uniform(rows.key_B.cpu().numpy(), several, first, most).to(device)
    prompt_BP = _left_padded(tokens_BT, start_B, room)
    stops = torch.tensor(sorted(dataset.chat.stops), device=device)
    ended_B, length_B = torch.zeros_like(start_B, dtype=torch.bool), torch.zeros_like(start_B)
    written = []
    for new_B in sample(model, prompt_BP, most, temperature, lengths_B=start_B, uniform_BS=uniform_BA):
        length_B += ~ended_B
        ended_B = ended_B | torch.isin(new_B, stops)
        written.append(new_B)
        if ended_B.all():
            break
    answer_BA = torch.stack(written, 1)
    full_BT = torch.full((len(tokens_BT), width + 1), dataset.pad, device=device)
    place_T = torch.arange(width + 1, device=device)
    full_BT[:, :width] = tokens_BT
    inside_BT = (place_T >= start_B[:, None]) & (place_T < (start_B + length_B)[:, None])
    taken_BT = (place_T - start_B[:, None]).clamp(0, answer_BA.shape[1] - 1)
    full_BT = torch.where(inside_BT, answer_BA.gather(1, taken_BT), full_BT)
    full_BT[place_T >= (start_B + length_B)[:, None]] = dataset.pad
    extra = {"start": start_B, "split": rows.extra["split"].repeat_interleave(several)}
    made = laid(full_BT, start_B + length_B, rows.key_B.repeat_interleave(several), extra)
    texts = [dataset.chat.said(ids[:length]) for ids, length in zip(answer_BA.tolist(), length_B.tolist(), strict=True)]
    return Answers(answers_only(made), texts, ended_B)


def _uniform(key_B, several, first, most):
    """(B * several, most) numbers in [0, 1)."""
    parts = [Draws(mixed(key_B.astype(np.uint64) ^ numbered_key(first + which))).uniform(most) for which in range(several)]
    return torch.from_numpy(np.stack(parts, 1).reshape(-1, most))


def _left_padded(tokens_BT, start_B, width):
    """The first `start_B` tokens of each row, moved to the right end of (B, width)."""
    place_BP = torch.arange(width, device=tokens_BT.device) - (width - start_B)[:, None]
    return torch.where(place_BP >= 0, tokens_BT.gather(1, place_BP.clamp(min=0)), 0)


@torch.no_grad()
def log_probabilities(model: Model, rows: Rows) -> Tensor:
    """(B,) nats: the log of the probability that the model gives to each row's targets together; never under autocast."""
    found = []
    with torch.autocast(rows.tokens_BT.device.type, enabled=False):
        for part in rows.pieces(TOKENS):
            assert part.targets_BT is not None
            hidden_BTD = model.trunk(part.tokens_BT, part.layout)[0]
            targets_N = part.targets_BT.flatten()
            nats_N = cross_entropies(hidden_BTD.flatten(0, 1), model.head_weight, targets_N, model.spec.logit_softcap)
            found.append(-nats_N.view_as(part.targets_BT).sum(1))
    return torch.cat(found)


def chosen(first_B: Tensor, first: Rows, second: Rows) -> Rows:
    """The rows of `first` where first_B, else those of `second`; both have the same prompts."""
    pick = lambda a, b: torch.where(first_B.view(-1, *[1] * (a.dim() - 1)), a, b)  # noqa: E731
    assert first.targets_BT is not None and second.targets_BT is not None
    layout = TokenLayout(pick(first.layout.doc_BT, second.layout.doc_BT), pick(first.layout.pos_BT, second.layout.pos_BT))
    extra = {name: pick(tensor, second.extra[name]) for name, tensor in first.extra.items()}
    tokens_BT, targets_BT = pick(first.tokens_BT, second.tokens_BT), pick(first.targets_BT, second.targets_BT)
    return Rows(tokens_BT, layout, targets_BT, second.key_B, extra)


def replaced(batch: Batch, **kinds: Rows) -> Batch:
    """A batch of these kinds of rows, that will be split as the given one."""
    made = Batch(kinds)
    made.parts = batch.parts
    return made


def check_whole(spec: Any) -> None:
    """Raises DataError, at its key, for a run whose processes hold only parts of the weights: none of them could write answers."""
    if spec.train.sharded:
        raise DataError("fsdp2 keeps a part of the weights in each process, which cannot write answers; expected ddp", WHOLE)
