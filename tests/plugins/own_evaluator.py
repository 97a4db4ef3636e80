"""An evaluator of a user's own: one file."""

import torch

from arch.contracts import Findings, Metric
from arch.registry import evaluator
from arch.spec import Spec


@evaluator
class Norms:
    """The norm of the embedding; and a draw from the process's generator."""

    class Config(Spec):
        name: str = "embedding_norm"
        fails: bool = False

    needs = frozenset({"decodes"})
    metrics = {"embedding_norm": Metric(unit="", better="neither")}

    def __init__(self, config):
        self.config = config

    def __call__(self, model, dataset, given):
        torch.rand(7)
        if self.config.fails:
            raise RuntimeError("this evaluator has a mistake")
        table = [{"row": row, "norm": float(model.embedding[row].norm())} for row in range(3)]
        return Findings({self.config.name: float(model.embedding.norm())}, table)
