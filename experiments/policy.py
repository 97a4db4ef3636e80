"""What objectives share that learn from rewards of a policy's own answers.

Shapes: B rows, T tokens, K answers of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arch.contracts import Mean, Metric, Referred
from arch.errors import SpecError
from arch.kernels.cross_entropy import weighted_cross_entropy
from arch.kernels.jsd import generalised_jsd
from arch.model import Model
from arch.spec import digest
from experiments import sampled, scored
from experiments.data.batch import Rows
from experiments.data.exchanges import Exchanges
from experiments.distillation.teacher import TOKENS
from experiments.prediction import AtTargets, at_targets
from experiments.sampled import Answers

# reward, length, ended: of the policy's answers. kl: KL(policy || start) of an answer, exact at each token that was drawn.
# bounded: the share of answers beyond the bound of this divergence.
METRICS = {
    "reward": Metric(better="higher"),
    "kl": Metric(unit="nats per answer"),
    "length": Metric(unit="tokens", better="neither"),
    "ended": Metric(better="higher"),
    "bounded": Metric(better="lower"),
}


class Own(NamedTuple):
    """Answers of the policy: rows (B * K), and of each prompt's answers reward, log probability, divergence, whether it ended."""

    rows: Rows
    reward_BK: Tensor
    log_p_BK: Tensor
    ended_BK: Tensor
    kl_BK: Tensor

    def far_BK(self, most: float | None) -> Tensor:
        """Which answers are further than `most` nats from the start; none without a bound."""
        return self.kl_BK > (math.inf if most is None else most)

    def kinds(self, worth_BK: Tensor, far_BK: Tensor) -> dict[str, Rows]:
        """A kind of rows for each of a prompt's answers, with what it is worth and what is reported of it."""
        several = self.reward_BK.shape[1]
        made = {}
        for k in range(several):
            rows = self.rows.part(slice(k, None, several))
            each = {"worth": worth_BK, "reward": self.reward_BK, "kl": self.kl_BK, "ended": self.ended_BK, "bounded": far_BK}
            rows.extra |= {name: tensor[:, k].contiguous() for name, tensor in each.items()}
            made[f"own{k}"] = rows
        return made


def rewards(reward: Any, dataset: Exchanges, wrote: Answers) -> Tensor:
    """(N,): how good each answer is. Raises RewardError."""
    return scored.rewards(reward, dataset.exchanges(wrote.rows), wrote.texts).to(wrote.rows.tokens_BT.device)


def own(model: Model, rows: Rows, dataset: Any, reward: Any, tokens: int | None, several: int, first: int, start: Model) -> Own:
    """Answers of the policy at temperature 1. first: the number of the first of them, other than those that others drew."""
    wrote = sampled.answers(model, rows, dataset, 1.0, tokens, several, first)
    shaped = lambda tensor: tensor.view(-1, several)  # noqa: E731
    log_p_BK = shaped(sampled.log_probabilities(model, wrote.rows))
    kl_BK = shaped(divergence(model, start, wrote.rows))
    return Own(wrote.rows, shaped(rewards(reward, dataset, wrote)), log_p_BK, shaped(wrote.ended_B), kl_BK)


@torch.no_grad()
def divergence(model: Model, start: Model, rows: Rows) -> Tensor:
    """(N,) nats: over each row's answer, the sum of KL(model || start) of the next token; never under autocast."""
    found = []
    with torch.autocast(rows.tokens_BT.device.type, enabled=False):
        for part in rows.pieces(TOKENS):
            (mine_ND, _, chosen_BT), (its_ND, *_) = (at_targets(each, part) for each in (model, start))
            caps: dict[str, Any] = {"softcap": model.spec.logit_softcap, "teacher_softcap": start.spec.logit_softcap}
            each_N = generalised_jsd(mine_ND, model.head_weight, its_ND, start.head_weight, 1.0, **caps).each_N
            found.append(torch.zeros(chosen_BT.shape, device=each_N.device).masked_scatter(chosen_BT, each_N).sum(1))
    return torch.cat(found)


def nats(model: Model, at: AtTargets, factor_B: Tensor) -> Tensor:
    """The sum over rows of factor times -log p(answer), with a gradient."""
    factor_N = factor_B[:, None].expand_as(at.chosen_BT)[at.chosen_BT]
    return weighted_cross_entropy(at.hidden_ND, model.head_weight, at.targets_N, factor_N, model.spec.logit_softcap)


def less_others(worth_BK: Tensor) -> Tensor:
    """What an answer is worth, less the mean of the prompt's other answers: a baseline that depends on no other row."""
    several = worth_BK.shape[1]
    return worth_BK - (worth_BK.sum(1, keepdim=True) - worth_BK) / (several - 1)


def means(kinds: Sequence[Rows]) -> dict[str, Mean]:
    """What is reported of the policy's answers, over all of them."""
    count = sum(map(len, kinds))
    total = lambda name: torch.stack([rows.extra[name].float().sum() for rows in kinds]).sum()  # noqa: E731
    found = {name: Mean(total(name), count) for name in ("reward", "kl", "ended", "bounded")}
    targets = [rows.targets_BT for rows in kinds if rows.targets_BT is not None]
    return {**found, "length": Mean(sum((each_BT >= 0).sum() for each_BT in targets).float(), count)}  # type: ignore[union-attr]


def check_same_model(spec: Any, start: Referred) -> None:
    """Raises SpecError, at the key `start`, where an anchor that follows the policy would be another model."""
    if digest(start.model) != digest(spec.model):
        raise SpecError(
            f"{start.name} has another architecture, so it cannot follow the policy; expected the same, or rate 0", ("start",)
        )
