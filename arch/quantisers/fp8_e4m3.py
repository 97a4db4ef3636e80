"""FP8 E4M3 with one scale per output channel (Micikevicius et al. 2022, arXiv 2209.05433, table 1).

Shapes: N output channels (rows of a matrix), D inputs of a row.
"""

import torch
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Spec

MOST = 448.0  # the largest finite value of E4M3


@quantiser
class FP8E4M3:
    """x = w 448 / max|w| of the row, rounded to 4 bits of exponent and 3 of mantissa, halves to even. Nothing is clipped.

    A code has 8 bits; the scale of a row is float32.
    """

    class Config(Spec):
        """It has no options."""

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls()]

    multiple = 1

    def __init__(self, config: Config):
        self.config = config

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix."""
        return rows * (width + 4)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{codes (N, D) uint8, scale (N, 1) float32}; the value of a code is scale times its E4M3 number."""
        x_ND, scale_N1 = _coded(weight)
        return {"codes": x_ND.view(torch.uint8), "scale": scale_N1}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        return packed["codes"].view(torch.float8_e4m3fn).float() * packed["scale"]

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`: (N, D) float32."""
        x_ND, scale_N1 = _coded(weight)
        return x_ND.float().mul_(scale_N1)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """None: every weight gets its gradient."""
        return None


def _coded(weight):
    weight_ND = weight.float()
    scale_N1 = weight_ND.abs().amax(-1, keepdim=True) / MOST
    x_ND = weight_ND / torch.where(scale_N1 == 0, 1.0, scale_N1)
    return x_ND.clamp_(-MOST, MOST).to(torch.float8_e4m3fn), scale_N1  # rounding of the scale may put the extreme above 448
