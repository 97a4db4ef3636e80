"""A frozen teacher: its hidden states, and what is kept of its distribution at each scored position.

Shapes: B rows, T tokens, E the teacher's width, V vocabulary, K entries per position, n positions of a chunk.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arch import checkpoint
from arch.cost import DTYPES
from arch.kernels.cross_entropy import logits_
from arch.kernels.kept import kept
from arch.layout import TokenLayout
from arch.model import Model
from arch.spec import Count, Positive, Spec
from experiments.data.batch import Rows
from experiments.distillation import packed

# Tokens that pass a teacher at once, for hidden states and on a GPU.
TOKENS = 8192
# On a CPU, for targets that are kept: twice as many are faster by 3 %, half as many slower by 15 %.
CPU_TOKENS = 512
# Bytes of the logits of a chunk, and of what is computed from some of its rows at a time.
CHUNK_BYTES, SLICE_BYTES = 256 << 20, 8 << 20


class Keeping(Spec):
    """What is kept of a teacher's distribution. precision: of the teacher's weights."""

    mode: Literal["sampled", "counts", "top_k"]
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
        with torch.no_grad(), torch.autocast(rows.tokens_BT.device.type, enabled=False):
            return torch.cat([self.model.trunk(part.tokens_BT, part.layout)[0] for part in rows.pieces(tokens)])

    def vectors(self, rows: Rows, tokens: int = TOKENS) -> Tensor:
        """The vector of each row's text (B, E), of a teacher with a pool, as `Model.vectors` gives it; in pieces as `hidden`."""
        with torch.no_grad(), torch.autocast(rows.tokens_BT.device.type, enabled=False):
            return torch.cat([self.model.vectors(part.tokens_BT, part.layout) for part in rows.pieces(tokens)])

    def kept(self, rows: Rows, keeping: Keeping) -> Kept:
        """What `keeping` keeps of the rows, at the positions with a target."""
        targets_BT, key_B = rows.targets_BT, rows.key_B
        assert targets_BT is not None and key_B is not None
        shape, device = rows.tokens_BT.shape, rows.tokens_BT.device
        words_BTK = torch.zeros(*shape, keeping.k, dtype=torch.int32, device=device)
        # Never of the default type, which is bfloat16 in a run of the precision bf16-true.
        tail_BT, entropy_BT = (torch.zeros(shape, device=device, dtype=torch.float32) for _ in range(2))
        at_once = rows_at_once(device, shape[1])
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for first in range(0, len(rows), at_once):
                part = padded(rows.part(slice(first, first + at_once)), at_once)
                row_N, position_N = torch.nonzero(targets_BT[first : first + at_once] >= 0, as_tuple=True)
                hidden_NE = self.hidden(part, at_once * shape[1])[row_N, position_N]
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
    """Rows that pass a teacher together whose targets are kept; fewer are filled up.

    The last bits of a product depend on the number of rows, and a row's targets must not depend on its batch. So the number
    is always the same, and on a CPU it is small.
    """
    return max(1, (CPU_TOKENS if device.type == "cpu" else TOKENS) // context)


def padded(rows: Rows, count: int) -> Rows:
    """Rows, and the first of them again until there are so many."""
    if len(rows) == count:
        return rows
    again_B = torch.arange(count, device=rows.tokens_BT.device)
    again_B[len(rows) :] = 0
    layout = TokenLayout(rows.layout.doc_BT[again_B], rows.layout.pos_BT[again_B])
    return Rows(rows.tokens_BT[again_B], layout)


def entries(z_nV: Tensor, key_n: Tensor, position_n: Tensor, keeping: Keeping) -> tuple[Tensor, Tensor, Tensor]:
    """(words (n, K), tail (n,), entropy (n,)) of the distributions softmax(z). z is overwritten.

    key, position: the number of each one's row, and its place in the row, which decide the draws.
    """
    found = kept(z_nV, key_n, position_n, keeping.k, keeping.mode)
    return packed.pack(found.ids_nk, found.values_nk, keeping.mode, z_nV.shape[1]), found.tail_n, found.entropy_n
