"""SFP8, an 8-bit "switched" floating point: 3 bits of mantissa for large values, 2 for small ones (gemma.cpp; Gemma 3, 2.3).

Shapes: N output channels (rows of a matrix), D inputs of a row.
"""

import torch
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Spec

MOST, SWITCH, LEAST = 1.875, 2.0**-7, 2.0**-23  # LEAST itself would be the code of zero
SMALLEST, TINY = 1.25 * LEAST, 1e-6
POWER = 0x7F800000  # the bits of a float32 that are its power of two


@quantiser
class SFP8:
    """x = s w with s = 1.875 / max|w| of the row, rounded to the format's nearest value, halves to even; the value is x / s.

    Values: +-2^e (1 + m / 8) for -7 <= e <= 0, +-2^e (1 + m / 4) for -23 <= e <= -8, and 0, which has the place of 2^-23.
    Nothing is clipped. A code has 8 bits: the sign, then the rank of the magnitude; the scale of a row is float32.
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
        """{codes (N, D) uint8, scale (N, 1) float32}."""
        x_ND, scale_N1 = _scaled(weight)
        magnitude_ND = _nearest(x_ND)
        power_ND = _power(magnitude_ND).clamp_(min=LEAST)
        fraction_ND, exponent_ND = magnitude_ND / power_ND - 1, power_ND.log2().round()
        large_ND = 64 + 8 * (exponent_ND + 7) + 8 * fraction_ND
        small_ND = 4 * (exponent_ND + 23) + 4 * fraction_ND
        rank_ND = torch.where(power_ND >= SWITCH, large_ND, small_ND)
        rank_ND = torch.where(magnitude_ND == 0, 0.0, rank_ND)
        return {"codes": rank_ND.to(torch.uint8) | x_ND.signbit().to(torch.uint8) << 7, "scale": scale_N1}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        rank_ND = (packed["codes"] & 127).int()
        large_ND = torch.ldexp(1 + (rank_ND & 7) / 8, (rank_ND - 64 >> 3) - 7)
        small_ND = torch.ldexp(1 + (rank_ND & 3) / 4, (rank_ND >> 2) - 23)
        magnitude_ND = torch.where(rank_ND >= 64, large_ND, small_ND).where(rank_ND > 0, 0.0)
        return torch.where(packed["codes"] > 127, -magnitude_ND, magnitude_ND) / packed["scale"]

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, without the packing: (N, D) float32."""
        x_ND, scale_N1 = _scaled(weight)
        return _nearest(x_ND).copysign_(x_ND).div_(scale_N1)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """None: every weight gets its gradient."""
        return None


def _scaled(weight):
    weight_ND = weight.float()
    scale_N1 = MOST / weight_ND.abs().amax(-1, keepdim=True).clamp(min=TINY)
    return weight_ND * scale_N1, scale_N1


def _power(magnitude_ND):
    """The largest power of two that is not above each magnitude."""
    return (magnitude_ND.view(torch.int32) & POWER).view(torch.float32)


def _nearest(x_ND):
    """The magnitude of the format that is nearest to |x|."""
    x_ND = x_ND.abs()
    power_ND = _power(x_ND).clamp_(LEAST, 1.0)
    step_ND = torch.where(power_ND >= SWITCH, power_ND / 8, power_ND / 4)
    nearest_ND = (x_ND / step_ND).round_().mul_(step_ND).clamp_(max=MOST)
    smallest_ND = torch.where(x_ND < SMALLEST / 2, 0.0, SMALLEST)
    return torch.where(nearest_ND < SMALLEST, smallest_ND, nearest_ND)
