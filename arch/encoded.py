"""What a decoder reads of a source: the last states of the encoder, and what each layer keeps of them.

Shapes: B rows, T tokens of the target, S tokens of the source, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from arch.layout import TokenLayout


class Encoded:
    """A source after the encoder.

    hidden_BSD: its states. layout: its documents. A token of the target sees the tokens of the source whose document has the
    number of its own, and no padding. So rows may hold several pairs of source and target.

    Keys and values of a layer are computed once (`kept`), so that a decoded token does not compute them again. An Encoded
    belongs to one pass, or to one state, with the weights that it was made with.
    """

    def __init__(self, hidden_BSD: Tensor, layout: TokenLayout):
        self.hidden_BSD, self.layout = hidden_BSD, layout
        self._kept: dict[Any, Any] = {}
        self._seen: tuple[TokenLayout, Tensor] | None = None

    def seen_BTS(self, layout: TokenLayout) -> Tensor:
        """(B, T, S) bool: the tokens of the source that a token of the target sees. All layers share it."""
        if self._seen is None or self._seen[0] is not layout:
            doc_BS = self.layout.doc_BT
            self._seen = layout, (layout.doc_BT[:, :, None] == doc_BS[:, None, :]) & (doc_BS >= 0)[:, None, :]
        return self._seen[1]

    def kept(self, layer: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gives for a layer, computed once."""
        if layer not in self._kept:
            self._kept[layer] = make()
        return self._kept[layer]

    def rows(self, part: slice) -> Encoded:
        """Some of the rows."""
        return Encoded(self.hidden_BSD[part], self.layout.rows(part))
