"""What is kept of a distribution softmax(z): draws from it, or its largest entries, with the mass of all other tokens.

A draw is the first token at which the running sum of the probabilities exceeds a number u in [0, 1). u depends on a fixed
number, the number of the draw's row, its position in the row and its own number, and on nothing else: not on the batch, the
device, or what was drawn before. So what was drawn for a row in one program is drawn again in another.

`reference` is plain torch; C does it for float32 on the CPU in two passes over memory (`kept.c`).

Shapes: n positions, V vocabulary, k draws or entries.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arch.kernels import native

SEED = 0x6A09E667F3BCC908  # the fixed number of all draws
MODES = ("top_k", "counts", "sampled")  # in the order of kept.c
SIGNATURES = {"kept": [native.POINTER] * 6 + [native.INTEGER] * 5}


class Entries(NamedTuple):
    """What is kept of n distributions. ids, values (n, k): ascending ids, and their probabilities or, of `counts`, how often each
    was drawn; 0 and 0 where fewer than k were drawn. tail (n,): the mass of all other tokens. entropy (n,): in nats."""

    ids_nk: Tensor
    values_nk: Tensor
    tail_n: Tensor
    entropy_n: Tensor


def reference(z_nV: Tensor, row_n: Tensor, position_n: Tensor, k: int, mode: Literal["top_k", "counts", "sampled"]) -> Entries:
    """The Entries of softmax(z). z is overwritten.

    The tail is summed up itself: one minus the others' sum would be rounding where it is small.
    """
    p_nV = torch.softmax(z_nV, 1)
    entropy_n = -torch.xlogy(p_nV, p_nV).sum(1)
    if mode == "top_k":
        ids_nk = p_nV.topk(k).indices.sort(1).values
        values_nk = p_nV.gather(1, ids_nk)
        used_nk = ids_nk
    else:
        ids_nk, counts_nk = distinct(drawn(p_nV, row_n, position_n, k))
        values_nk = counts_nk.to(p_nV.dtype) if mode == "counts" else torch.where(counts_nk > 0, p_nV.gather(1, ids_nk), 0.0)
        used_nk = torch.where(counts_nk > 0, ids_nk, ids_nk[:, :1])
    return Entries(ids_nk, values_nk, p_nV.scatter_(1, used_nk, 0.0).sum(1), entropy_n)


def kept(z_nV: Tensor, row_n: Tensor, position_n: Tensor, k: int, mode: Literal["top_k", "counts", "sampled"]) -> Entries:
    """`reference`, in C where it can. Ties and draws at a rounding's edge may fall otherwise there."""
    library = native.library("kept", (z_nV,), SIGNATURES) if z_nV.is_contiguous() else None
    if library is None:
        return reference(z_nV, row_n, position_n, k, mode)
    n, vocabulary = z_nV.shape
    state_n = _state(row_n, position_n).contiguous()
    # Of z's type: the default type, in which C would write beyond their ends, may be bfloat16.
    ids_nk, values_nk = torch.empty(n, k, dtype=torch.long), z_nV.new_empty(n, k)
    tail_n, entropy_n = z_nV.new_empty(2, n)
    addresses = (x.data_ptr() for x in (z_nV, state_n, ids_nk, values_nk, tail_n, entropy_n))
    library.kept(*addresses, n, vocabulary, k, MODES.index(mode), torch.get_num_threads())
    return Entries(ids_nk, values_nk, tail_n, entropy_n)


def drawn(p_nV: Tensor, row_n: Tensor, position_n: Tensor, k: int) -> Tensor:
    """Ids (n, k) of k independent draws with replacement from each of the distributions, which need not sum to one."""
    sums_nV = p_nV.double().cumsum(1)
    ids_nk = torch.searchsorted(sums_nV, uniforms(row_n, position_n, k) * sums_nV[:, -1:], right=True)
    return ids_nk.clamp(max=p_nV.shape[1] - 1)


def distinct(ids_nk: Tensor) -> tuple[Tensor, Tensor]:
    """(ids, counts), both (n, k): each different id of a position once, ascending, and how often it occurs; then zeros."""
    sorted_nk = ids_nk.sort(1).values
    new_nk = torch.ones_like(sorted_nk)
    new_nk[:, 1:] = sorted_nk[:, 1:] != sorted_nk[:, :-1]
    group_nk = new_nk.cumsum(1) - 1
    counts_nk = torch.zeros_like(sorted_nk).scatter_add_(1, group_nk, torch.ones_like(sorted_nk))
    return torch.zeros_like(sorted_nk).scatter_(1, group_nk, sorted_nk), counts_nk


def uniforms(row_n: Tensor, position_n: Tensor, k: int) -> Tensor:
    """(n, k) numbers in [0, 1), float64: a hash of the fixed number, the row, the position and the draw's number."""
    h_nk = _mixed(_state(row_n, position_n)[:, None] + torch.arange(k, device=row_n.device))
    return _shifted(h_nk, 11).double() * 2.0**-53


def _state(row_n: Tensor, position_n: Tensor) -> Tensor:
    """Where the draws of a position begin."""
    return _mixed(_mixed(_signed(SEED) ^ row_n) + position_n)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64 (Steele, Lea, Flood 2014, figure 16): whole numbers of 64 bits, that wrap around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x as 64 bits without a sign, shifted to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
