"""A format of a user's own: every weight is -s, 0 or +s, s the mean magnitude of its row (as in Ma et al. 2024, BitNet b1.58)."""

import torch

from arch.registry import quantiser
from arch.spec import Spec


@quantiser
class Ternary:
    """A code has two bits, four a byte; s is float32."""

    class Config(Spec):
        """It has no options."""

        @classmethod
        def examples(cls):
            return [cls()]

    multiple = 4

    def __init__(self, config):
        self.config = config

    def bytes(self, rows, width):
        return rows * (width // 4 + 4)

    def pack(self, weight):
        scale_N1, codes_ND = self._coded(weight)
        parts = ((codes_ND + 1).to(torch.uint8).unflatten(1, (-1, 4)) << torch.tensor([0, 2, 4, 6], dtype=torch.uint8)).sum(2)
        return {"codes": parts.to(torch.uint8), "scale": scale_N1}

    def unpack(self, packed, width):
        codes_ND = packed["codes"][:, :, None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8) & 3
        return (codes_ND.flatten(1).float() - 1) * packed["scale"]

    def rounded(self, weight):
        scale_N1, codes_ND = self._coded(weight)
        return codes_ND * scale_N1

    def clipped(self, weight):
        return None

    def _coded(self, weight):
        scale_N1 = weight.float().abs().mean(1, keepdim=True)
        return scale_N1, (weight.float() / torch.where(scale_N1 == 0, 1.0, scale_N1)).round().clamp(-1, 1)
