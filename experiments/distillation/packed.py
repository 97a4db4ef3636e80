"""The format of what is kept of a teacher: 4 bytes per token that is kept, 4 per position for the mass of the others.

An entry is a 32-bit word: the token's id in the upper ceil(log2 V) bits, a code in the lower ones. Code 0 is no entry.

mode     | the code c is
---------|--------------
counts   | how often the token was drawn, exactly
others   | the teacher's probability on a logarithmic scale: p = 2^(-40 (c - 1) / (C - 1)), C the largest code

A probability is stored with a relative error of at most 2^(20 / (C - 1)) - 1 (`relative_error`): 8.5e-4 for a vocabulary of
262,144 (18 bits for the id, 14 for the code), 1.1e-4 for 32,768, 1.7e-6 for 512. Below 2^-40 = 9.1e-13 it is raised to that.
Training from fresh targets rounds them in the same way, so that it equals training from stored ones.

Shapes: N positions, K entries per position.
"""

import torch
from torch import Tensor

WORD, OCTAVES = 32, 40.0
# The modes of a target that is not the whole distribution (`experiments.objectives.distill`).
SPARSE = ("sampled", "counts", "top_k")


def id_bits(vocabulary: int) -> int:
    """The bits of an id."""
    return max(1, (vocabulary - 1).bit_length())


def largest_code(vocabulary: int) -> int:
    """The largest code: also the largest count."""
    return (1 << (WORD - id_bits(vocabulary))) - 1


def relative_error(vocabulary: int) -> float:
    """The largest relative error of a probability above 2^-40."""
    return float(2 ** (OCTAVES / (largest_code(vocabulary) - 1) / 2) - 1)


def pack(ids_NK: Tensor, values_NK: Tensor, mode: str, vocabulary: int) -> Tensor:
    """Words (N, K), int32, of ids and of counts or probabilities.

    A value of 0 is no entry, but of the largest k, which always are k different ids.
    """
    most = largest_code(vocabulary)
    if mode == "counts":
        codes_NK = values_NK.long()
    else:
        steps_NK = -torch.log2(values_NK.double()) * ((most - 1) / OCTAVES)
        codes_NK = (1 + steps_NK.round()).clamp(1, most).long()
    words_NK = (ids_NK << (WORD - id_bits(vocabulary))) | codes_NK
    if mode != "top_k":
        words_NK = torch.where(values_NK > 0, words_NK, 0)
    return words_NK.to(torch.int32)  # keeps the lower 32 bits


def unpack(words_NK: Tensor, mode: str, vocabulary: int) -> tuple[Tensor, Tensor]:
    """(ids int64, counts or probabilities float32), both (N, K), of words; 0 and 0 where there is no entry."""
    most = largest_code(vocabulary)
    words_NK = words_NK.long() & ((1 << WORD) - 1)
    codes_NK = words_NK & most
    ids_NK = words_NK >> (WORD - id_bits(vocabulary))
    if mode == "counts":
        return ids_NK, codes_NK.float()
    p_NK = torch.exp2((codes_NK - 1).double() * (-OCTAVES / (most - 1))).float()
    return ids_NK, torch.where(codes_NK > 0, p_NK, 0.0)


def targets(words_NK: Tensor, tail_N: Tensor, mode: str, bucket: bool, vocabulary: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(ids, p, tail) of a target that sums to one. tail_N: the mass of all other tokens; the result's is None without `bucket`.

    counts: each count by all draws. sampled, and top_k without a bucket: the probabilities renormalised on the entries.
    With a bucket: the probabilities beside the tail, divided by their sum, which rounding has moved from one.
    """
    ids_NK, p_NK = unpack(words_NK, mode, vocabulary)
    tail_N1 = tail_N[:, None] if bucket else torch.zeros_like(tail_N[:, None])
    total_N1 = p_NK.sum(1, keepdim=True) + tail_N1
    return ids_NK, p_NK / total_N1, (tail_N1 / total_N1)[:, 0] if bucket else None
