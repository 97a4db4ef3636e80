"""Which document each token belongs to, and what follows from it: positions, resets, and which keys a query may see.

Shapes: B rows, T tokens.
"""

import torch


class TokenLayout:
    """The only context a mixer gets beside its input.

    doc_BT: number of the document a token belongs to within its row, -1 for padding.
    pos_BT: position within the document, from 0; inside a document it grows by one a token, so that a document's
    tokens are neighbours. Prompts of different lengths are padded on the left. Padding has position 0.

    From this follows that the keys a query may see are an interval of the row: `interval` gives it.

    first: where every row is known to be one document without padding, the position of its first token; else None.
    Then all rows are alike, and what is made from one of them can be expanded.
    """

    def __init__(self, doc_BT, pos_BT, first=None):
        self.doc_BT, self.pos_BT, self.first = doc_BT, pos_BT, first
        self._memo = {}

    @classmethod
    def whole(cls, rows, tokens, device=None, first=0):
        """Rows of one document each, whose first token has position `first`."""
        pos_T = torch.arange(first, first + tokens, device=device)
        doc_BT = torch.zeros(1, 1, dtype=torch.long, device=device).expand(rows, tokens)
        return cls(doc_BT, pos_T.expand(rows, tokens), first)

    @classmethod
    def packed(cls, doc_BT):
        """Rows of several documents: a new number begins a new one, -1 is padding."""
        index_T = torch.arange(doc_BT.shape[1], device=doc_BT.device)
        begins_BT = torch.ones_like(doc_BT, dtype=torch.bool)
        begins_BT[:, 1:] = doc_BT[:, 1:] != doc_BT[:, :-1]
        start_BT = torch.where(begins_BT, index_T, 0).cummax(dim=1).values
        return cls(doc_BT, torch.where(doc_BT < 0, 0, index_T - start_BT))

    @classmethod
    def left_padded(cls, lengths_B, tokens):
        """Rows of one document of `lengths_B[b]` tokens each, padded on the left to `tokens`."""
        pos_BT = torch.arange(tokens, device=lengths_B.device) - (tokens - lengths_B[:, None])
        return cls(torch.where(pos_BT < 0, -1, 0), pos_BT.clamp(min=0))

    def part(self, start, stop):
        """The layout of the tokens [start, stop) of every row, as a state needs it that has seen those before them."""
        first = None if self.first is None else self.first + start
        return TokenLayout(self.doc_BT[:, start:stop], self.pos_BT[:, start:stop], first)

    @property
    def shape(self):
        """(B, T)"""
        return self.doc_BT.shape

    @property
    def reset_BT(self):
        """Where a document begins, and at all padding: no state and no convolution tap reaches across."""
        return self.pos_BT == 0

    @property
    def distinct_pos_BT(self):
        """Positions, of one row only where all are alike (to be expanded, or broadcast)."""
        return self.pos_BT if self.first is None else self.pos_BT[:1]

    @property
    def pos_B(self):
        """Positions of one token a row, dense int64."""
        return self.memo("one", lambda: self.pos_BT[:, 0].long().contiguous())

    def memo(self, key, make):
        """`make()`, computed once for this layout: masks and angles are the same for many layers."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def interval(self, before, after, first=0):
        """(low_BT, high_BT): the first and last index a query may see, both included, itself always among them.

        before, after: how many tokens on each side, None for all of the document's. Indices count from the start of
        the stream, whose token `first` is this layout's first; `after` other than 0 needs the whole row.
        """
        return self.memo(("interval", before, after, first), lambda: self._interval(before, after, first))

    def _interval(self, before, after, first):
        rows, tokens = self.shape
        pos_BT = self.distinct_pos_BT
        index_BT = torch.arange(first, first + tokens, device=pos_BT.device).expand(len(pos_BT), tokens)
        reach_BT = pos_BT if before is None else pos_BT.clamp(max=before)
        low_BT = (index_BT - reach_BT).clamp(min=0).expand(rows, tokens)
        if after == 0:
            return low_BT, index_BT.expand(rows, tokens)
        doc_BT = self.doc_BT[: len(pos_BT)]
        ends_BT = torch.ones_like(doc_BT, dtype=torch.bool, memory_format=torch.contiguous_format)
        ends_BT[:, :-1] = doc_BT[:, 1:] != doc_BT[:, :-1]
        ends_BT[:, :-1] |= pos_BT[:, 1:] == 0
        last_BT = torch.where(ends_BT, index_BT, first + tokens).flip(1).cummin(dim=1).values.flip(1)
        high_BT = last_BT if after is None else torch.minimum(last_BT, index_BT + after)
        return low_BT, high_BT.expand(rows, tokens)
