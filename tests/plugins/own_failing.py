"""A mixer that fails in the way that NOW says, where the rows are real ones: what planning runs is honest."""

import sys

import torch.nn.functional as F
from torch import nn

from arch.layers import constant, parameter
from arch.registry import mixer
from arch.spec import Spec

NOW = ""


@mixer
class Failing(nn.Module):
    class Config(Spec):
        always: str = ""

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.config = config
        self.scale = parameter((context.dim,), "vector", constant(1.0))
        if config.always == "built":
            sys.exit(4)

    def init_state(self, batch, capacity, dtype=None, device=None):
        return ()

    def forward(self, x_BTD, layout, state=None):
        y_BTD, how = x_BTD * self.scale, self.config.always or NOW
        if how == "exits":
            sys.exit("enough")
        if how == "raises":
            raise LookupError("nothing there\nand a second line")
        if how == "in torch":
            return F.linear(y_BTD, y_BTD[0, :1, :2]), state
        if how == "no state":
            return y_BTD
        if how == "shape":
            return y_BTD[..., :1], state
        return y_BTD, state
