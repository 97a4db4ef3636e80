"""Draws from a distribution over a large vocabulary, and its largest entries, in fewer passes than torch's own.

Both look at blocks of tokens first. Token v of V belongs to block v mod C with C = ceil(V / W), so that the sums, or the
largest, of all blocks are taken over a dimension whose neighbours lie side by side in memory.

A draw depends on a fixed number, the number of its row, its position in the row and its own number, and on nothing else: not
on the batch, the device, or what was drawn before. So what was drawn for a row in one program is drawn again in another.

Shapes: n positions, V vocabulary, C blocks of W tokens, k draws or entries.
"""

import math

import torch
from torch import Tensor

SEED = 0x6A09E667F3BCC908  # the fixed number of all draws
# The largest k entries are looked for in blocks of WIDTH tokens, where the vocabulary has at least as many blocks as FEWEST k.
WIDTH, FEWEST = 16, 2


def largest(p_nV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, ids), both (n, k), of the k largest entries, the largest first."""
    n, vocabulary = p_nV.shape
    blocks = vocabulary // WIDTH
    if not p_nV.is_cpu or blocks < FEWEST * k:
        return p_nV.topk(k)
    # The k largest entries are in the k blocks with the largest maxima, or in the rest that fills no row of blocks.
    main_nWC = p_nV[:, : blocks * WIDTH].unflatten(1, (WIDTH, blocks))
    chosen_nk = main_nWC.amax(1).topk(k, sorted=False).indices
    ids_nM = (chosen_nk[:, None] + blocks * torch.arange(WIDTH)[:, None]).flatten(1)
    ids_nM = torch.cat([ids_nM, torch.arange(blocks * WIDTH, vocabulary).expand(n, -1)], 1)
    values_nk, places_nk = p_nV.gather(1, ids_nM).topk(k)
    return values_nk, ids_nM.gather(1, places_nk)


def drawn(p_nV: Tensor, row_n: Tensor, position_n: Tensor, k: int) -> Tensor:
    """Ids (n, k) of k independent draws with replacement from each of the distributions, which need not sum to one."""
    n, vocabulary = p_nV.shape
    width = max(1, round(math.sqrt(vocabulary / k)))
    blocks = -(-vocabulary // width)
    if blocks * width != vocabulary:
        p_nV = torch.nn.functional.pad(p_nV, (0, blocks * width - vocabulary))
    p_nWC = p_nV.unflatten(1, (width, blocks))
    u_nk = uniforms(row_n, position_n, k)
    block_nk, rest_nk = _places(p_nWC.sum(1).double().cumsum(1), u_nk)
    ids_nkW = block_nk[:, :, None] + blocks * torch.arange(width, device=p_nV.device)
    inside_nkW = p_nV.gather(1, ids_nkW.flatten(1)).view(n, k, width).double().cumsum(2)
    inside_nk, _ = _places(inside_nkW.flatten(0, 1), rest_nk.view(-1, 1))
    return (block_nk + blocks * inside_nk.view(n, k)).clamp(max=vocabulary - 1)


def _places(sums_nC: Tensor, u_nk: Tensor) -> tuple[Tensor, Tensor]:
    """(place, rest) of numbers u in [0, 1) in distributions with these running sums: rest is u within its place, in [0, 1)."""
    wanted_nk = u_nk * sums_nC[:, -1:]
    place_nk = torch.searchsorted(sums_nC, wanted_nk, right=True).clamp(max=sums_nC.shape[1] - 1)
    end_nk = sums_nC.gather(1, place_nk)
    start_nk = torch.where(place_nk > 0, sums_nC.gather(1, (place_nk - 1).clamp(min=0)), 0.0)
    return place_nk, ((wanted_nk - start_nk) / (end_nk - start_nk)).clamp(0.0, 1.0 - 2.0**-53)


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
    h_n1 = _mixed(_mixed(_signed(SEED) ^ row_n[:, None]) + position_n[:, None])
    h_nk = _mixed(h_n1 + torch.arange(k, device=row_n.device))
    return _shifted(h_nk, 11).double() * 2.0**-53


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
