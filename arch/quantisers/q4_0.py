"""Q4_0, llama.cpp's int4 in blocks of 32 (`ggml-quants.c`; Gemma 3, section 2.3: per-block int4).

Shapes: N rows of a matrix, D inputs of a row, M blocks of all rows.
"""

from typing import Literal

import torch
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Spec

BLOCK, ZERO, HIGH = 32, 8, 15


@quantiser
class Q40:
    """q = clip(trunc(w / d + 8.5), 0, 15), with the value d (q - 8). d = -m / 8, m the first w of the block with the largest |w|.

    m keeps its sign, so it is always the code 0, and the other end of a block is at 7/8 of it. The codes are of the float32 d,
    the values of d in float16: rounding d first would change codes. 4.5 bits a weight.
    A block has 18 bytes: d in float16, then 16 bytes, of which byte j holds q[j] in its lower and q[j + 16] in its upper half.
    """

    class Config(Spec):
        """gradient: straight through the rounding: `plain` for every weight, `clipped` for those that were not clipped."""

        gradient: Literal["plain", "clipped"] = "plain"

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls(), cls(gradient="clipped")]

    multiple = BLOCK

    def __init__(self, config: Config):
        self.config = config

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix."""
        return rows * (width // BLOCK) * (2 + BLOCK // 2)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{blocks (N, D / 32 * 18) uint8}, as in a GGUF file."""
        steps_M32, d_M1 = _steps(weight)
        codes_M32 = _codes(steps_M32).to(torch.uint8)
        halves_M16 = codes_M32[:, : BLOCK // 2] | codes_M32[:, BLOCK // 2 :] << 4
        return {"blocks": torch.cat([d_M1.half().view(torch.uint8), halves_M16], 1).view(len(weight), -1)}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        blocks = packed["blocks"].reshape(-1, 2 + BLOCK // 2)
        d_M1, halves_M16 = blocks[:, :2].contiguous().view(torch.float16).float(), blocks[:, 2:]
        codes_M32 = torch.cat([halves_M16 & 15, halves_M16 >> 4], 1)
        return (d_M1 * (codes_M32.float() - ZERO)).view(-1, width)

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, without the packing: (N, D) float32."""
        steps_M32, d_M1 = _steps(weight)
        return _codes(steps_M32).sub_(ZERO).mul_(d_M1.half().float()).view(weight.shape)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """Which weights get no gradient (N, D); None for none."""
        return None if self.config.gradient == "plain" else (_steps(weight)[0] >= HIGH + 1).view(weight.shape)


def _steps(weight):
    """(w / d + 8.5, d): their whole part is the code, before it is clipped."""
    blocks_M32 = weight.float().reshape(-1, BLOCK)
    d_M1 = _extreme(blocks_M32) / -ZERO
    inverse_M1 = torch.where(d_M1 == 0, 0.0, d_M1.reciprocal())
    return (blocks_M32 * inverse_M1).add_(ZERO + 0.5), d_M1


def _codes(steps_M32):
    return steps_M32.trunc_().clamp_(0, HIGH)


def _extreme(blocks_M32):
    """The first of the values with the largest magnitude, (M, 1), with its sign."""
    return blocks_M32.gather(1, blocks_M32.abs().argmax(1, keepdim=True))
