"""Q8_0, llama.cpp's int8 in blocks of 32 (`ggml-quants.c`).

Shapes: N rows of a matrix, D inputs of a row, M blocks of all rows.
"""

import torch
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Spec

BLOCK = 32


@quantiser
class Q80:
    """q = round(w / d), halves away from zero, with d = max|w| / 127 of the block; the value is d q with d in float16.

    Nothing is clipped. 8.5 bits a weight: a block has 34 bytes, d in float16, then 32 signed codes.
    """

    class Config(Spec):
        """It has no options."""

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls()]

    multiple = BLOCK

    def __init__(self, config: Config):
        self.config = config

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix."""
        return rows * (width // BLOCK) * (2 + BLOCK)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{blocks (N, D / 32 * 34) uint8}, as in a GGUF file."""
        codes_M32, d_M1 = _coded(weight)
        bytes_M32 = codes_M32.to(torch.int8).view(torch.uint8)
        return {"blocks": torch.cat([d_M1.half().view(torch.uint8), bytes_M32], 1).view(len(weight), -1)}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        blocks = packed["blocks"].reshape(-1, 2 + BLOCK)
        d_M1, bytes_M32 = blocks[:, :2].contiguous().view(torch.float16), blocks[:, 2:].contiguous()
        return (d_M1.float() * bytes_M32.view(torch.int8).float()).view(-1, width)

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, without the packing: (N, D) float32."""
        codes_M32, d_M1 = _coded(weight)
        return codes_M32.mul_(d_M1.half().float()).view(weight.shape)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """None: every weight gets its gradient."""
        return None


def _coded(weight):
    """(codes as float32, d) of each block."""
    blocks_M32 = weight.float().reshape(-1, BLOCK)
    d_M1 = blocks_M32.abs().amax(1, keepdim=True) / 127
    steps_M32 = blocks_M32 * torch.where(d_M1 == 0, 0.0, d_M1.reciprocal())
    return steps_M32.abs().add_(0.5).floor_().copysign_(blocks_M32), d_M1
