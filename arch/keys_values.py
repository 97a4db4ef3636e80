"""What attention keeps of earlier tokens: keys and values in a ring of slots.

Shapes: B rows, T tokens, S slots, K key/value heads, C channels per head, W window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arch.layout import TokenLayout


@dataclass(frozen=True)
class AttentionState:
    """Keys (already rotated) and values of earlier tokens, in a ring of S slots. Token n is in slot n mod S.

    window: W, or None for a state that must hold every token. seen: the number of tokens so far.
    """

    k_BKSC: Tensor
    v_BKSC: Tensor
    window: int | None = None
    seen: int = 0

    @property
    def slots(self) -> int:
        return self.k_BKSC.shape[2]

    def extended(self, k_BTKC: Tensor, v_BTKC: Tensor) -> tuple[AttentionState, Tensor, Tensor]:
        """(state, k_BSKC, v_BSKC): the state after new tokens, and all keys and values that these may see.

        Keys are in order, the oldest first and the new tokens' own last. Nothing is copied for a first chunk or if the
        state holds every token. In a window's ring the new tokens overwrite some that they still see, so up to W - 1
        earlier tokens are copied first.
        """
        if self.seen == 0:
            return self.write(k_BTKC, v_BTKC), k_BTKC, v_BTKC
        if self.window is None:
            after = self.write(k_BTKC, v_BTKC)
            rings = after.k_BKSC, after.v_BKSC
            return after, *(ring_BKSC[:, :, : after.seen].transpose(1, 2).to(k_BTKC.dtype) for ring_BKSC in rings)
        slot_S = torch.arange(max(0, self.seen - self.window + 1), self.seen, device=k_BTKC.device) % self.slots
        pairs = (self.k_BKSC, k_BTKC), (self.v_BKSC, v_BTKC)
        seen = [torch.cat([old[:, :, slot_S].transpose(1, 2).to(new.dtype), new], 1) for old, new in pairs]
        return self.write(k_BTKC, v_BTKC), *seen

    def write(self, k_BTKC: Tensor, v_BTKC: Tensor) -> AttentionState:
        """The state after new tokens, written in place. Of more than S tokens, only the last S are written.

        Raises ValueError as `after` does.
        """
        tokens, slots = k_BTKC.shape[1], self.slots
        after = self.after(tokens)
        kept = min(tokens, slots)
        start = (self.seen + tokens - kept) % slots
        upto = min(slots - start, kept)  # tokens up to the ring's end; the others go to its beginning
        for ring_BKSC, new_BTKC in (self.k_BKSC, k_BTKC), (self.v_BKSC, v_BTKC):
            new_BKTC = new_BTKC[:, tokens - kept :].transpose(1, 2)
            ring_BKSC[:, :, start : start + upto] = new_BKTC[:, :, :upto]
            if upto < kept:
                ring_BKSC[:, :, : kept - upto] = new_BKTC[:, :, upto:]
        return after

    def after(self, tokens: int) -> AttentionState:
        """The state with `tokens` more tokens seen. Raises ValueError if a token that is still needed would be lost."""
        if self.seen + tokens > self.slots and self.slots != self.window:
            raise ValueError(f"a state with room for {self.slots} tokens cannot take {self.seen + tokens}")
        return AttentionState(self.k_BKSC, self.v_BKSC, self.window, self.seen + tokens)

    def hidden(self, layout: TokenLayout) -> Tensor | None:
        """(B, used slots) bool: the slots that the last written token does not see. None if it sees all of them."""
        if layout.first == self.seen - 1:
            return None
        age_S = (self.seen - 1 - torch.arange(min(self.seen, self.slots), device=layout.pos_BT.device)) % self.slots
        return age_S > layout.pos_BT
