"""Best-of-N distillation: the policy learns to answer as the best of N answers would (BOND, Sessa et al. 2024, arXiv 2407.14622).

The best of N draws from an anchor has, without ties, the probability of a draw times N p(<= y)^(N - 1), where p(<= y) is the
quantile of its reward among the anchor's answers. The loss is the Jeffreys divergence from that distribution, (1 - jeffreys)
KL(best || policy) + jeffreys KL(policy || best). Shapes: B rows, T tokens, N scored positions, K answers of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import nn

from arch import registry
from arch.contracts import Dataset, Mean, Metric, Referred
from arch.model import Model
from arch.registry import objective
from arch.spec import Component, Fraction, Kind, Positive, Spec, place
from experiments import policy, sampled, sampling_costs, scored
from experiments.anchor import Anchor
from experiments.data.batch import Batch
from experiments.distillation import same_tokens
from experiments.prediction import at_targets
from experiments.sampled import Length
from experiments.spec import Reference

# An answer that is worse than all n has the quantile of an eighth of one: with n = 2 its log is J-BOND's -log 16.
LEAST = 0.125


@objective
class BestOfN(nn.Module):
    """The Jeffreys form of BOND: two parts, of answers of the anchor and of answers of the policy.

    Forward: cross-entropy on the best of n answers that the anchor writes. Backward: a policy gradient (REINFORCE) on the policy's
    own answers y, of the reward (n - 1) log p(<= y) - (1 + kl) log(policy(y) / anchor(y)), less the mean of the prompt's other
    answers. The quantile is counted among the anchor's n answers. The anchor is the start, or follows the policy at `rate`, as in
    J-BOND. The divergence from the start is a metric, and can be bounded.
    """

    class Config(Spec):
        """start: the run or checkpoint that training starts from, as in `init_from`. reward: how good an answer is.

        n: answers of the anchor to each prompt. own: answers of the policy to each prompt. jeffreys: the weight of the backward
        part.
        rate: how much of the policy the anchor takes over before each step; 0 leaves it at the start. kl: further weight of the
        divergence from the anchor. kl_most: an answer of the policy that is further than so many nats from the start counts as
        worse than all others; null for no bound. answer_tokens: the most of an answer.
        """

        start: Reference = place(...)
        reward: Annotated[Component, Kind("reward"), AfterValidator(scored.resolved)]
        n: Annotated[int, Field(ge=2)] = 4
        own: Annotated[int, Field(ge=2)] = 2
        jeffreys: Fraction = 0.5
        rate: Fraction = 0.0
        kl: Annotated[float, Field(ge=0)] = 0.0
        kl_most: Positive | None = None
        answer_tokens: Length = None

    needs = frozenset({"causal", "decodes", "answers"})
    runs = ("start",)
    measured_by = "sft"
    metrics = {"loss": Metric(unit="nats per token", better="neither"), **policy.METRICS, "best_reward": Metric(better="higher")}

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
        """Answers of the anchor, of which the best is kept, and answers of the policy with what each is worth: a kind of rows
        each."""
        rows, config = batch["text"], self.config
        anchor = self.anchor.to(rows.tokens_BT.device)
        anchor.follow(model)
        theirs = sampled.answers(anchor.model, rows, self.dataset, 1.0, config.answer_tokens, config.n)  # type: ignore[arg-type]
        ours = policy.own(model, rows, self.dataset, self.reward, config.answer_tokens, config.own, config.n, anchor.start.model)
        reward_BK = policy.rewards(self.reward, self.dataset, theirs).view(-1, config.n)  # type: ignore[arg-type]
        best_B = reward_BK.argmax(1)
        best = theirs.part(torch.arange(len(rows), device=best_B.device) * config.n + best_B).rows
        best.extra["reward"] = reward_BK.amax(1)
        far_BK = ours.far_BK(config.kl_most)
        quantile_BK = log_quantile(ours.reward_BK, reward_BK).masked_fill(far_BK, math.log(LEAST / config.n))
        ratio_BK = ours.log_p_BK - sampled.log_probabilities(anchor.model, ours.rows).view_as(ours.log_p_BK)
        worth_BK = (config.n - 1) * quantile_BK - (1 + config.kl) * ratio_BK
        return sampled.replaced(batch, best=best, **ours.kinds(policy.less_others(worth_BK), far_BK))

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The loss of both parts, and of the policy's answers their reward, length and divergence from the start."""
        means = policy.means([rows for name, rows in batch.items() if name != "best"])
        best, weight = batch["best"], self.config.jeffreys
        loss = (1 - weight) * policy.nats(model, at_targets(model, best), torch.ones(len(best), device=best.tokens_BT.device))
        for name, rows in batch.items():
            if name != "best":
                loss = loss + weight / self.config.own * policy.nats(model, at_targets(model, rows), rows.extra["worth"])
        return {"loss": Mean(loss, batch.weight), **means, "best_reward": Mean(best.extra["reward"].sum(), len(best))}

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises SpecError for a start of other tokens or another model, or a run whose weights are spread over devices."""
        same_tokens.check(spec, dataset, runs["start"], "start")
        if config.rate:
            policy.check_same_model(spec, runs["start"])
        sampled.check_whole(spec)

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """n answers of the anchor, `own` of the policy, which the policy reads again, as the anchor and the start do; then a
        training step, three passes, on each further row than the first."""
        start = runs["start"].model
        return sampling_costs.of(spec, [start] * (config.n + 2 * config.own) + [spec.model] * (3 * config.own + 3 * config.own))


def log_quantile(reward_BK: torch.Tensor, among_BN: torch.Tensor) -> torch.Tensor:
    """(B, K): log of the share of a prompt's answers `among` that are no better; of LEAST / N where all are better."""
    count_BK = (among_BN[:, None, :] <= reward_BK[:, :, None]).sum(2)
    return (count_BK.clamp(min=LEAST) / among_BN.shape[1]).log()
