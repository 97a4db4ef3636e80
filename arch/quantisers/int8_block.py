"""int8 in blocks, symmetric, with scales in float32 (EmbeddingGemma, 2.3: int8 per block; the block's size is not published).

Shapes: N rows of a matrix, D inputs of a row, M blocks of all rows, b values of a block.
"""

import torch
from torch import Tensor

from arch.registry import quantiser
from arch.spec import Count, Spec

HIGH = 127


@quantiser
class Int8Block:
    """q = round(w / s), halves to even, with s = max|w| / 127 of the block; the value is s q. Nothing is clipped.

    8 + 32 / block bits a weight.
    """

    class Config(Spec):
        """block: consecutive values of a row that share a scale; it divides the width."""

        block: Count = 32

        @classmethod
        def examples(cls):
            """Valid instances for the tests."""
            return [cls(), cls(block=8)]

    def __init__(self, config: Config):
        self.config = config

    @property
    def multiple(self) -> int:
        return self.config.block

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix."""
        return rows * (width + 4 * (width // self.config.block))

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{codes (N, D) int8, scale (N, D / b) float32}."""
        codes_Mb, scale_M1 = self._coded(weight)
        return {"codes": codes_Mb.to(torch.int8).view(weight.shape), "scale": scale_M1.view(len(weight), -1)}

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix, float32."""
        codes_Mb = packed["codes"].float().reshape(-1, self.config.block)
        return (codes_Mb * packed["scale"].reshape(-1, 1)).view(-1, width)

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, without the packing: (N, D) float32."""
        codes_Mb, scale_M1 = self._coded(weight)
        return codes_Mb.mul_(scale_M1).view(weight.shape)

    def clipped(self, weight: Tensor) -> Tensor | None:
        """None: every weight gets its gradient."""
        return None

    def _coded(self, weight):
        blocks_Mb = weight.float().reshape(-1, self.config.block)
        scale_M1 = blocks_Mb.abs().amax(1, keepdim=True) / HIGH
        divisor_M1 = torch.where(scale_M1 == 0, 1.0, scale_M1)
        return (blocks_Mb / divisor_M1).round_().clamp_(-HIGH, HIGH), scale_M1
