"""Vectors in fewer bytes: whole numbers of 8 or 4 bits within a range per dimension, or one bit, the sign.

int8 and int4 divide the range [low, high] of each dimension into 255 or 15 equal steps. A value within the range comes back
with an error of at most half a step; one outside is clipped to the range's end. The ranges are those of a stated set of
vectors (the documents of an index), 2 E floats for the whole index.

Shapes: N vectors, E numbers of a vector, B bytes of a code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NIBBLE, BYTE = 4, 8
# The value of each bit of a byte, the first number of a vector in the highest bit, as `numpy.packbits` packs.
BITS = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, eq=False)
class Ranges:
    """The range of each dimension. low_E, high_E: float32."""

    low_E: Tensor
    high_E: Tensor

    @classmethod
    def of(cls, vectors_NE: Tensor) -> "Ranges":
        """The smallest ranges that hold all these vectors."""
        low_E, high_E = vectors_NE.float().aminmax(dim=0)
        return cls(low_E, high_E)

    def step_E(self, bits: int) -> Tensor:
        """The width of a step with so many bits; 0 for a dimension that is constant."""
        return (self.high_E - self.low_E) / (2**bits - 1)

    def codes(self, vectors_NE: Tensor, bits: int) -> Tensor:
        """(N, E) uint8: the number of the nearest step, from 0; at most 8 bits."""
        step_E = self.step_E(bits)
        place_NE = (vectors_NE.float() - self.low_E) / torch.where(step_E > 0, step_E, 1.0)
        return place_NE.round().clamp(0, 2**bits - 1).to(torch.uint8)

    def values(self, codes_NE: Tensor, bits: int) -> Tensor:
        """(N, E) float32: what the codes stand for."""
        return self.low_E + codes_NE * self.step_E(bits)


def packed_nibbles(codes_NE: Tensor) -> Tensor:
    """(N, ceil(E / 2)) uint8: two codes of 4 bits per byte, the first in the higher half; 0 stands behind an odd number."""
    codes_NE = torch.nn.functional.pad(codes_NE, (0, codes_NE.shape[1] % 2))
    return codes_NE[:, 0::2] << NIBBLE | codes_NE[:, 1::2]


def unpacked_nibbles(packed_NB: Tensor, width: int) -> Tensor:
    """(N, width) uint8: the codes of `packed_nibbles`."""
    return torch.stack([packed_NB >> NIBBLE, packed_NB & (2**NIBBLE - 1)], dim=2).flatten(1)[:, :width]


def packed_signs(vectors_NE: Tensor) -> Tensor:
    """(N, ceil(E / 8)) uint8: a bit per number, 1 where it is above 0; 0 fills the last byte."""
    bits_NE = torch.nn.functional.pad((vectors_NE > 0).to(torch.uint8), (0, -vectors_NE.shape[1] % BYTE))
    weights_8 = torch.tensor(BITS, dtype=torch.uint8, device=vectors_NE.device)
    return (bits_NE.unflatten(1, (-1, BYTE)) * weights_8).sum(2, dtype=torch.uint8)


def unpacked_signs(packed_NB: Tensor, width: int) -> Tensor:
    """(N, width) float32: 1 for each bit that is set, -1 for the others."""
    weights_8 = torch.tensor(BITS, dtype=torch.uint8, device=packed_NB.device)
    bits_NE = ((packed_NB[:, :, None] & weights_8) > 0).flatten(1)[:, :width]
    return bits_NE.float() * 2 - 1
