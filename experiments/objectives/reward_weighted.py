"""Reward-weighted fine-tuning: likelihood of the policy's own answers, each weighted by its reward among those to its prompt.

Peters and Schaal 2007, "Reinforcement learning by reward-weighted regression for operational space control", with several answers
to each prompt. Shapes: B rows, T tokens, N scored positions, K answers of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import nn

from arch import registry
from arch.contracts import Dataset, Mean, Metric, Referred
from arch.kernels.jsd import generalised_jsd
from arch.model import Model
from arch.registry import objective
from arch.spec import Component, Fraction, Kind, Positive, Spec, place
from experiments import policy, sampled, sampling_costs, scored
from experiments.anchor import Anchor
from experiments.data.batch import Batch, Rows
from experiments.distillation import same_tokens
from experiments.prediction import at_targets
from experiments.sampled import Length
from experiments.spec import Reference


@objective
class RewardWeighted(nn.Module):
    """loss = sum_k w_k (-log p(y_k)) + kl KL(policy || anchor), with w = softmax(reward / temperature) over a prompt's K answers.

    `centred` takes 1 / K from each weight: answers below the mean are made less likely. Its expected gradient is the same, because
    the answers are the policy's own; and where all rewards are the same, nothing moves. The divergence is exact at each token of
    the answers; from the start it is a metric, and can be bounded.
    """

    class Config(Spec):
        """start: the run or checkpoint that training starts from, as in `init_from`. reward: how good an answer is.

        answers: K, to each prompt. temperature: of the weights; small ones take the best answer alone. centred: weights that add up
        to 0. kl: the weight of the divergence from the anchor. rate: how much of the policy the anchor takes over before each step;
        0 leaves it at the start. kl_most: an answer that is further than so many nats from the start gets no weight; null for no
        bound. answer_tokens: the most of an answer.
        """

        start: Reference = place(...)
        reward: Annotated[Component, Kind("reward"), AfterValidator(scored.resolved)]
        answers: Annotated[int, Field(ge=2)] = 4
        temperature: Positive = 0.5
        centred: bool = True
        kl: Annotated[float, Field(ge=0)] = 0.05
        rate: Fraction = 0.0
        kl_most: Positive | None = None
        answer_tokens: Length = None

    needs = frozenset({"causal", "decodes", "answers"})
    runs = ("start",)
    measured_by = "sft"
    metrics = {"loss": Metric(unit="nats per token", better="neither"), **policy.METRICS}

    def __init__(self, config: Config, dataset: Dataset, runs: Mapping[str, Path]):
        """runs: {"start": the folder of its checkpoint}."""
        super().__init__()
        self.config, self.dataset, self.folder = config, dataset, Path(runs["start"])
        self.reward = registry.build("reward", config.reward)

    @cached_property
    def anchor(self) -> Anchor:
        """The frozen start and what the policy is kept near to."""
        return Anchor(self.folder, self.config.rate)

    def kept(self) -> dict[str, torch.Tensor]:
        """The anchor's weights, where it moves."""
        return self.anchor.kept()

    def restore(self, kept: dict[str, torch.Tensor]) -> None:
        """Takes them over."""
        self.anchor.restore(kept)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Answers of the policy with their weights, and the anchor's hidden states over them: a kind of rows for each answer."""
        rows, config = batch["text"], self.config
        anchor = self.anchor.to(rows.tokens_BT.device)
        anchor.follow(model)
        start = anchor.start.model
        ours = policy.own(model, rows, self.dataset, self.reward, config.answer_tokens, config.answers, 0, start)
        far_BK = ours.far_BK(config.kl_most)
        weight_BK = weights(ours.reward_BK, config.temperature, config.centred).masked_fill(far_BK, 0.0)
        kinds = ours.kinds(weight_BK, far_BK)
        if config.kl:
            for each in kinds.values():
                each.extra["anchor_hidden"] = anchor.moving.hidden(each)
        return sampled.replaced(batch, **kinds)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The loss, and of the answers their reward, length and divergence from the start."""
        loss = sum((self._loss(model, rows) for rows in batch.values()), torch.zeros((), device=model.embedding.device))
        return {"loss": Mean(loss, batch.weight), **policy.means([*batch.values()])}

    def _loss(self, model: Model, rows: Rows) -> torch.Tensor:
        at = at_targets(model, rows)
        loss = policy.nats(model, at, rows.extra["worth"])
        if not self.config.kl:
            return loss
        anchor = self.anchor.model
        heads = at.hidden_ND, model.head_weight, rows.extra["anchor_hidden"][at.chosen_BT], anchor.head_weight
        pull = generalised_jsd(*heads, 1.0, softcap=model.spec.logit_softcap, teacher_softcap=anchor.spec.logit_softcap).loss
        return loss + self.config.kl / self.config.answers * pull

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises SpecError for a start of other tokens or another model, or a run whose weights are spread over devices."""
        same_tokens.check(spec, dataset, runs["start"], "start")
        if config.rate:
            policy.check_same_model(spec, runs["start"])
        sampled.check_whole(spec)

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """K answers, which the policy reads twice again, the anchor and the start once; then a training step on each row but
        one."""
        start = [runs["start"].model] * 2 * config.answers
        return sampling_costs.of(spec, start + [spec.model] * (3 * config.answers + 3 * (config.answers - 1)))


def weights(reward_BK: torch.Tensor, temperature: float, centred: bool) -> torch.Tensor:
    """The weight of each of a prompt's answers (B, K): they add up to 1, or to 0 where they are centred."""
    weight_BK = (reward_BK / temperature).softmax(1)
    return weight_BK - 1 / weight_BK.shape[1] if centred else weight_BK
