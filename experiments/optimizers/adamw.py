"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2)."""

from typing import Annotated

import torch
from pydantic import Field, model_validator

from arch.registry import optimizer
from arch.spec import Fraction, List, Positive, Spec
from experiments import decay

# Devices on which torch has a fused AdamW, one operation per tensor; elsewhere it runs several operations.
FUSED = ("cpu", "cuda", "mps", "xpu")


@optimizer
class AdamW:
    """torch's AdamW. The defaults of `betas`, `weight_decay` and `clip` are GPT-3's (arXiv 2005.14165, appendix B)."""

    class Config(Spec):
        """lr: the peak rate. betas: of the two moments. eps: added to the root of the second moment. weight_decay: of what
        `experiments.decay` names. clip: the largest gradient norm, or null.
        """

        lr: Positive
        betas: List[Fraction] = (0.9, 0.95)
        eps: Positive = 1e-8
        weight_decay: Annotated[float, Field(ge=0)] = 0.1
        clip: Positive | None = 1.0

        @classmethod
        def examples(cls):
            return [cls(lr=3e-3), cls(lr=3e-3, weight_decay=0.0, clip=None)]

        @model_validator(mode="after")
        def _two_betas(self):
            if len(self.betas) != 2 or max(self.betas) >= 1:
                raise ValueError("betas: expected two numbers below 1")
            return self

    def __init__(self, config):
        self.config = config

    def build(self, parameters):
        """torch's AdamW for the named parameters, fused where all of them are on a device that has it."""
        parts = decay.groups(parameters, self.config.weight_decay)
        fused = all(weight.device.type in FUSED for part in parts for weight in part["params"])
        return torch.optim.AdamW(parts, lr=self.config.lr, betas=self.config.betas, eps=self.config.eps, fused=fused)
