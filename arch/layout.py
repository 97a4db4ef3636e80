"""The document of each token, and what follows from it: positions, resets, and the keys that a query may see.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

Made = TypeVar("Made")
# How tokens of one image see each other (`TokenLayout.seeing`).
SpanRule = Literal["one_sided", "two_sided", "causal"]


class TokenLayout:
    """The only context that a mixer gets in addition to its input.

    doc_BT: the number of the token's document within its row, -1 for padding.
    pos_BT: the position within the document, from 0. It grows by one per token, so a document's tokens are contiguous.
    Prompts of different lengths are padded on the left. Padding has position 0.

    The keys that a query may see are therefore an interval of the row; `interval` gives its bounds.

    first: the position of every row's first token if each row is known to be one document without padding, else None.
    If it is given, all rows are alike, and a result for one row can be expanded to all.

    image_BT: the number of the token's image within its row, -1 for text; None if no row has an image. The tokens of an image
    are contiguous and in one document; two images have different numbers, also where no token stands between them. Numbers
    grow along the row. rule: how they see each other, see `seeing`.
    """

    def __init__(
        self,
        doc_BT: Tensor,
        pos_BT: Tensor,
        first: int | None = None,
        image_BT: Tensor | None = None,
        rule: SpanRule = "one_sided",
    ):
        self.doc_BT, self.pos_BT, self.first = doc_BT, pos_BT, first
        self.image_BT, self.rule = image_BT, rule
        self._memo: dict[Hashable, Any] = {}

    @classmethod
    def whole(cls, rows: int, tokens: int, device: Any = None, first: int = 0) -> TokenLayout:
        """One document per row, whose first token has position `first`."""
        pos_T = torch.arange(first, first + tokens, device=device)
        doc_BT = torch.zeros(1, 1, dtype=torch.long, device=device).expand(rows, tokens)
        return cls(doc_BT, pos_T.expand(rows, tokens), first)

    @classmethod
    def packed(cls, doc_BT: Tensor) -> TokenLayout:
        """Several documents per row: a change of the number begins a new document, -1 is padding."""
        index_T = torch.arange(doc_BT.shape[1], device=doc_BT.device)
        begins_BT = torch.ones_like(doc_BT, dtype=torch.bool)
        begins_BT[:, 1:] = doc_BT[:, 1:] != doc_BT[:, :-1]
        start_BT = torch.where(begins_BT, index_T, 0).cummax(dim=1).values
        return cls(doc_BT, torch.where(doc_BT < 0, 0, index_T - start_BT))

    @classmethod
    def left_padded(cls, lengths_B: Tensor, tokens: int) -> TokenLayout:
        """One document of `lengths_B[b]` tokens per row, padded on the left to `tokens`."""
        pos_BT = torch.arange(tokens, device=lengths_B.device) - (tokens - lengths_B[:, None])
        return cls(torch.where(pos_BT < 0, -1, 0), pos_BT.clamp(min=0))

    @classmethod
    def right_padded(cls, lengths_B: Tensor, tokens: int) -> TokenLayout:
        """One document of `lengths_B[b]` tokens per row, padded on the right to `tokens`; a length of 0 is a row of padding."""
        pos_BT = torch.arange(tokens, device=lengths_B.device).expand(len(lengths_B), tokens)
        own_BT = pos_BT < lengths_B[:, None]
        return cls(torch.where(own_BT, 0, -1), torch.where(own_BT, pos_BT, 0))

    def with_images(self, image_BT: Tensor) -> TokenLayout:
        """The same documents with images in them; see the class. Without any, the layout itself."""
        if not (image_BT >= 0).any():
            return self
        return TokenLayout(self.doc_BT, self.pos_BT, self.first, image_BT, self.rule)

    def seeing(self, rule: SpanRule) -> TokenLayout:
        """The same layout, in which a token of an image sees later tokens of the same image by a named rule.

        It never sees a later token of another image, and text is causal. In a layer with a window of W keys:

        | rule | keys of the own image |
        |---|---|
        | `one_sided` | all later ones, and the W - 1 before it (transformers, the PyTorch reference of Gemma 3) |
        | `two_sided` | less than W before and after it (DeepMind's JAX reference) |
        | `causal` | none after it: images are read like text (no reference; for comparison) |

        Raises ValueError for another rule.
        """
        if rule not in get_args(SpanRule):
            raise ValueError(f"no rule {rule!r} for the tokens of an image; expected one of {', '.join(get_args(SpanRule))}")
        if self.image_BT is None or rule == self.rule:
            return self
        return TokenLayout(self.doc_BT, self.pos_BT, self.first, self.image_BT, rule)

    @property
    def looks_ahead(self) -> bool:
        """Whether some token sees a later one though a mixer is causal: one of an image."""
        return self.image_BT is not None and self.rule != "causal"

    @property
    def is_plain(self) -> bool:
        """Whether every row is known to be one document without padding, and no token of a causal mixer sees a later one."""
        return self.first is not None and not self.looks_ahead

    def part(self, start: int, stop: int) -> TokenLayout:
        """The layout of the tokens [start, stop) of every row, for a state that has seen the tokens before them.

        Raises ValueError where it cuts an image, whose first tokens would then not see its last.
        """
        if not self.may_cut(start) or not self.may_cut(stop):
            raise ValueError(f"the tokens {start} to {stop - 1} cut an image, which is read at once")
        first = None if self.first is None else self.first + start
        image_BT = None if self.image_BT is None else self.image_BT[:, start:stop]
        return TokenLayout(self.doc_BT[:, start:stop], self.pos_BT[:, start:stop], first, image_BT, self.rule)

    def may_cut(self, place: int) -> bool:
        """Whether a chunk may begin at the token `place`: no row has one image on both sides of it."""
        if self.image_BT is None or not 0 < place < self.shape[1]:
            return True
        before_B, after_B = self.image_BT[:, place - 1], self.image_BT[:, place]
        return not bool(((before_B == after_B) & (after_B >= 0)).any())

    def rows(self, part):
        """The layout of some of the rows (a slice)."""
        image_BT = None if self.image_BT is None else self.image_BT[part]
        return TokenLayout(self.doc_BT[part], self.pos_BT[part], self.first, image_BT, self.rule)

    def to(self, device):
        """The same layout on another device; itself where it is there already."""
        doc_BT, pos_BT = self.doc_BT.to(device), self.pos_BT.to(device)
        if doc_BT is self.doc_BT and pos_BT is self.pos_BT:
            return self
        image_BT = None if self.image_BT is None else self.image_BT.to(device)
        return TokenLayout(doc_BT, pos_BT, self.first, image_BT, self.rule)

    @property
    def shape(self) -> torch.Size:
        """(B, T)"""
        return self.doc_BT.shape

    @property
    def reset_BT(self) -> Tensor:
        """True at the first token of a document and at padding. No state and no convolution tap may reach across it."""
        return self.pos_BT == 0

    @property
    def seen_BT(self) -> Tensor:
        """True at tokens of documents, False at padding."""
        return self.doc_BT >= 0

    @property
    def first_B(self) -> Tensor:
        """The index of each row's first token that is no padding; T - 1 where all is padding."""
        last = self.shape[1] - 1
        index_T = torch.arange(last + 1, device=self.doc_BT.device)
        return torch.where(self.seen_BT, index_T, last).amin(1)

    @property
    def last_B(self) -> Tensor:
        """The index of each row's last token that is no padding; 0 where all is padding."""
        index_T = torch.arange(self.shape[1], device=self.doc_BT.device)
        return torch.where(self.seen_BT, index_T, 0).amax(1)

    def picked(self, x_BTD: Tensor, index_B: Tensor) -> Tensor:
        """x (B, D) of one token of each row, by its index; 0 where that token is padding."""
        row_B = torch.arange(len(index_B), device=index_B.device)
        return x_BTD[row_B, index_B].masked_fill(~self.seen_BT[row_B, index_B][:, None], 0.0)

    @property
    def distinct_pos_BT(self) -> Tensor:
        """Positions (B, T), or (1, T) if all rows are alike; the caller expands or broadcasts them."""
        return self.pos_BT if self.first is None else self.pos_BT[:1]

    @property
    def pos_B(self) -> Tensor:
        """Positions of the first token of each row, as dense int64."""
        return self.memo("one", lambda: self.pos_BT[:, 0].long().contiguous())

    def memo(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The result of `make()`, computed once per key: many layers share the same masks and angles."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def interval(self, before: int | None, after: int | None, first: int = 0) -> tuple[Tensor, Tensor]:
        """(low_BT, high_BT): the first and last index that a query may see, both inclusive. A query always sees itself.

        before, after: the number of tokens on each side; None for all of the document. Indices count from the start of
        the stream. first: the index of this layout's first token in the stream. An `after` other than 0 needs the
        whole row. With an `after` of 0, a token of an image may see later ones (see `seeing`): that is an interval too.
        """
        return self.memo(("interval", before, after, first), lambda: self._interval(before, after, first))

    def _interval(self, before: int | None, after: int | None, first: int) -> tuple[Tensor, Tensor]:
        rows, tokens = self.shape
        pos_BT = self.distinct_pos_BT
        index_BT = torch.arange(first, first + tokens, device=pos_BT.device).expand(len(pos_BT), tokens)
        reach_BT = pos_BT if before is None else pos_BT.clamp(max=before)
        low_BT = (index_BT - reach_BT).clamp(min=0).expand(rows, tokens)
        if after == 0:
            index_BT = index_BT.expand(rows, tokens)
            return low_BT, self._last_of_image(index_BT, before) if self.looks_ahead else index_BT
        doc_BT = self.doc_BT[: len(pos_BT)]
        ends_BT = torch.ones_like(doc_BT, dtype=torch.bool, memory_format=torch.contiguous_format)
        ends_BT[:, :-1] = doc_BT[:, 1:] != doc_BT[:, :-1]
        ends_BT[:, :-1] |= pos_BT[:, 1:] == 0
        last_BT = torch.where(ends_BT, index_BT, first + tokens).flip(1).cummin(dim=1).values.flip(1)
        high_BT = last_BT if after is None else torch.minimum(last_BT, index_BT + after)
        return low_BT, high_BT.expand(rows, tokens)

    def reach(self, before: int | None, after: int | None) -> tuple[int | None, int | None]:
        """(before, after) of a mixer, widened to the tokens after itself that one of an image sees here."""
        if after != 0 or not self.looks_ahead:
            return before, after
        return before, self.memo(("ahead", before), lambda: self._furthest_ahead(before))

    def _furthest_ahead(self, before: int | None) -> int:
        """How many tokens after itself a token of an image sees at most."""
        index_BT = torch.arange(self.shape[1], device=self.doc_BT.device).expand(self.shape)
        return int((self._last_of_image(index_BT, before) - index_BT).max())

    def _last_of_image(self, index_BT: Tensor, before: int | None) -> Tensor:
        """The last index that each token sees: of text its own, of an image's token that of its image or of the window."""
        image_BT = self.image_BT
        assert image_BT is not None
        follows_BT = torch.zeros_like(image_BT, dtype=torch.bool)  # whether the next token is of the same image
        follows_BT[:, :-1] = (image_BT[:, 1:] == image_BT[:, :-1]) & (image_BT[:, :-1] >= 0)
        last_BT = torch.where(follows_BT, index_BT[:, -1:] + 1, index_BT).flip(1).cummin(dim=1).values.flip(1)
        if self.rule == "two_sided" and before is not None:
            last_BT = torch.minimum(last_BT, index_BT + before)
        return last_BT
