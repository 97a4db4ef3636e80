"""A frozen teacher: its hidden states, and what is kept of its distribution at each scored position.

Shapes: B rows, T tokens, E the teacher's width, V vocabulary, K entries per position, n positions of a chunk.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from arch import checkpoint
from arch.cost import DTYPES
from arch.kernels.cross_entropy import logits_
from arch.model import Model
from arch.spec import Count, Positive, Spec
from experiments.data.batch import Rows
from experiments.distillation import draws, packed

# Tokens that pass a teacher at once, for hidden states and on a GPU.
TOKENS = 8192
# Bytes of the logits of a chunk, and of what is computed from some of its rows at a time.
CHUNK_BYTES, SLICE_BYTES = 256 << 20, 8 << 20


class Keeping(Spec):
    """What is kept of a teacher's distribution. precision: of the teacher's weights."""

    mode: str
    k: Count
    temperature: Positive
    precision: str


class Kept(NamedTuple):
    """What is kept of some rows: words_BTK int32 (`packed`), tail_BT float32, the mass of all tokens without an entry, and
    entropy_BT, the teacher's in nats. All are 0 at a position without a target."""

    words_BTK: Tensor
    tail_BT: Tensor
    entropy_BT: Tensor


@dataclass
class Teacher:
    """A model in evaluation mode that nothing trains."""

    model: Model

    @classmethod
    def load(cls, folder: Path | str, precision: str) -> "Teacher":
        """The teacher in a checkpoint's folder, with weights in `precision`. Raises DataError."""
        return cls(checkpoint.load(folder, DTYPES[precision]).requires_grad_(False).eval())

    def to(self, device: torch.device | str) -> "Teacher":
        """The same teacher on a device."""
        self.model.to(device)
        return self

    def hidden(self, rows: Rows, tokens: int = TOKENS) -> Tensor:
        """Hidden states (B, T, E), at most about `tokens` tokens at a time; never under autocast."""
        at_once = max(1, tokens // rows.tokens_BT.shape[1])
        with torch.no_grad(), torch.autocast(rows.tokens_BT.device.type, enabled=False):
            parts = [rows.part(slice(i, i + at_once)) for i in range(0, len(rows), at_once)]
            return torch.cat([self.model.trunk(part.tokens_BT, part.layout)[0] for part in parts])

    def kept(self, rows: Rows, keeping: Keeping) -> Kept:
        """What `keeping` keeps of the rows, at the positions with a target."""
        targets_BT, key_B = rows.targets_BT, rows.key_B
        assert targets_BT is not None and key_B is not None
        shape, device = rows.tokens_BT.shape, rows.tokens_BT.device
        words_BTK = torch.zeros(*shape, keeping.k, dtype=torch.int32, device=device)
        tail_BT, entropy_BT = (torch.zeros(shape, device=device) for _ in range(2))
        at_once = rows_at_once(device, shape[1])
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for first in range(0, len(rows), at_once):
                part = rows.part(slice(first, first + at_once))
                row_N, position_N = torch.nonzero(targets_BT[first : first + at_once] >= 0, as_tuple=True)
                hidden_NE = self.hidden(part, shape[0] * shape[1])[row_N, position_N]
                found = self._entries(hidden_NE, key_B[first + row_N], position_N, keeping)
                for whole, each in zip((words_BTK, tail_BT, entropy_BT), found, strict=True):
                    whole[first + row_N, position_N] = each
        return Kept(words_BTK, tail_BT, entropy_BT)

    def _entries(self, hidden_NE, key_N, position_N, keeping):
        """(words, tail, entropy) of positions, from their logits in chunks of a size that the vocabulary alone decides."""
        weight_VE, cap = self.model.head_weight, self.model.spec.logit_softcap
        vocabulary = len(weight_VE)
        size = max(1, CHUNK_BYTES // (4 * vocabulary))
        z = hidden_NE.new_empty(min(size, max(1, len(hidden_NE))), vocabulary, dtype=torch.float32)
        at_once = max(1, SLICE_BYTES // (4 * vocabulary))
        parts = [(z.new_empty(0, keeping.k, dtype=torch.int32), z.new_empty(0), z.new_empty(0))]
        for hidden_nE, key_n, position_n in zip(*(each.split(size) for each in (hidden_NE, key_N, position_N)), strict=True):
            z_nV = z[: len(hidden_nE)]
            logits_(z_nV, hidden_nE, weight_VE, cap, keeping.temperature, z_nV)
            slices = zip(*(each.split(at_once) for each in (z_nV, key_n, position_n)), strict=True)
            parts += [entries(logits, key, position, keeping) for logits, key, position in slices]
        return [torch.cat(column) for column in zip(*parts, strict=True)]


def rows_at_once(device: torch.device, context: int) -> int:
    """Rows that pass a teacher together whose targets are kept.

    On a CPU, each passes alone: the last bits of a product depend on the number of rows, and a row's targets must not depend
    on its batch. A GPU would idle.
    """
    return 1 if device.type == "cpu" else max(1, TOKENS // context)


def entries(z_nV: Tensor, key_n: Tensor, position_n: Tensor, keeping: Keeping) -> tuple[Tensor, Tensor, Tensor]:
    """(words (n, K), tail (n,), entropy (n,)) of the distributions softmax(z).

    key, position: the number of each one's row, and its place in the row, which decide the draws. tail: the mass of all tokens
    without an entry, summed up itself: one minus the others' sum would be rounding where it is small.
    """
    vocabulary, mode = z_nV.shape[1], keeping.mode
    largest_n1 = z_nV.amax(1, keepdim=True)
    p_nV = torch.softmax(z_nV, 1)
    total_n1 = largest_n1 - p_nV.amax(1, keepdim=True).log()
    entropy_n = (total_n1 - (p_nV * z_nV).sum(1, keepdim=True))[:, 0]
    if mode == "top_k":
        values_nK, ids_nK = draws.largest(p_nV, keeping.k)
        used_nK = ids_nK
    else:
        ids_nK, values_nK = draws.distinct(draws.drawn(p_nV, key_n, position_n, keeping.k))
        used_nK = torch.where(values_nK > 0, ids_nK, ids_nK[:, :1])
        if mode == "sampled":
            values_nK = torch.where(values_nK > 0, p_nV.gather(1, ids_nK), 0.0)
    words_nK = packed.pack(ids_nK, values_nK, mode, vocabulary)
    tail_n = p_nV.scatter_(1, used_nK, 0.0).sum(1)
    return words_nK, tail_n, entropy_n
