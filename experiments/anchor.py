"""The model that a policy is kept near to: where it started, or an exponential moving average of the policy itself.

BOND (Sessa et al. 2024, arXiv 2407.14622) and WARP (Ramé et al. 2024, arXiv 2406.16768) let the anchor follow the policy, so that
a small step from it, repeated, goes far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arch.model import Model
from experiments.distillation.teacher import Teacher


class Anchor:
    """rate: the part of the policy that the anchor takes over before each step; 0 leaves it where it started.

    start: the frozen model in a folder. model: the anchor, which is the start itself where nothing moves.
    """

    def __init__(self, folder: Path, rate: float):
        self.rate = rate
        self.start = Teacher.load(folder, "float32")
        self.moving = Teacher.load(folder, "float32") if rate else self.start

    def to(self, device: torch.device | str) -> Anchor:
        """The same on a device."""
        self.start.to(device)
        self.moving.to(device)
        return self

    @property
    def model(self) -> Model:
        """The anchor."""
        return self.moving.model

    @torch.no_grad()
    def follow(self, policy: Model) -> None:
        """anchor <- (1 - rate) anchor + rate policy, once a step."""
        if not self.rate:
            return
        for mine, its in zip(self.model.parameters(), policy.parameters(), strict=True):
            mine.lerp_(its.to(mine.dtype), self.rate)

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint needs: the moving weights."""
        return {name: weight.detach().cpu().clone() for name, weight in self.model.named_parameters()} if self.rate else {}

    @torch.no_grad()
    def restore(self, kept: dict[str, Any]) -> None:
        """The weights that `kept` gave."""
        for name, weight in self.model.named_parameters():
            if self.rate:
                weight.copy_(kept[name])
