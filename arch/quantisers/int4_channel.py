"""int4 with one scale per output channel, symmetric (DeepMind's `gemma` package, quantisation-aware training; Gemma 3, 2.3).

Shapes: N output channels (rows of a matrix), D inputs of a row.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Spec

LOW, HIGH = -8, 7


@quantiser
class Int4Channel:
    """q = clip(round(s w), -8, 7) with s = extreme / max|w| of the row; the value is q / s.

    A code has 4 bits, two a byte, the first in the lower half; the scale s of a row is float32.
    """

    class Config(Spec):
        """extreme: what the largest |w| of a row becomes. With 7, the published rule, nothing is clipped. With 7.5 the steps
        are finer and one end of the row is clipped.

        gradient: straight through the rounding: `plain` for every weight, `clipped` for those that were not clipped.
        """

        extreme: Annotated[float, Field(ge=7, le=8)] = 7.0
        gradient: Literal["plain", "clipped"] = "plain"

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls(), cls(extreme=7.5, gradient="clipped")]

    multiple = 1

    def __init__(self, config: Config):
        self.config = config

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix."""
        return rows * (-(-width // 2) + 4)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{codes (N, ceil(D / 2)) uint8, scale (N, 1) float32}."""
        scaled_ND, scale_N1 = self._scaled(weight)
        codes_ND = torch.nn.functional.pad((_whole(scaled_ND) - LOW).to(torch.uint8), (0, scaled_ND.shape[1] % 2))
        return {"codes": codes_ND[:, 0::2] | codes_ND[:, 1::2] << 4, "scale": scale_N1}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        halves = packed["codes"] & 15, packed["codes"] >> 4
        codes_ND = torch.stack(halves, dim=2).flatten(1)[:, :width]
        return _values(codes_ND.float() + LOW, packed["scale"])

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, without the packing: (N, D) float32."""
        scaled_ND, scale_N1 = self._scaled(weight)
        return _values(_whole(scaled_ND), scale_N1)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """Which weights get no gradient (N, D); None for none."""
        if self.config.gradient == "plain":
            return None
        rounded_ND = self._scaled(weight)[0].round()
        return (rounded_ND < LOW) | (rounded_ND > HIGH)

    def _scaled(self, weight):
        weight_ND = weight.float()
        scale_N1 = self.config.extreme * weight_ND.abs().amax(-1, keepdim=True).reciprocal()
        scale_N1 = torch.where(scale_N1.isfinite(), scale_N1, 0.0)  # a row of zeros
        return weight_ND * scale_N1, scale_N1


def _whole(scaled_ND):
    return scaled_ND.round().clamp_(LOW, HIGH)  # half to even


def _values(whole_ND, scale_N1):
    return torch.where(scale_N1 > 0, whole_ND / scale_N1, 0.0)
