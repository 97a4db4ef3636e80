"""Recall in context, with noise: pairs follow each other, and a key that came before is followed by the same value."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Count, Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.data.sources.phonebook import spelt
from experiments.spec import DataSpec

SOURCE = ("data", "source")
# Pairs of a row that decide its split.
HEAD = 16


@source
class InContextRecall:
    """In-context recall (MAD, Poli et al. 2024): each row has a table of its own, of which it shows pairs in random order.

    Scored is the value behind a key that came before in the row. Options give MAD's harder forms: noise between the pairs,
    and motifs, keys and values of several tokens (`fuzzy`; MAD draws their lengths, here all are equal). The first half of
    the vocabulary are keys, the second half values; the tokens of noise come after them.
    """

    class Config(Spec):
        """vocabulary: token ids of keys and values. pairs: in the table of a row; by default one for each key token.

        noise: the share of tokens between the pairs. noise_vocabulary: their ids. motif: tokens per key and per value.
        """

        vocabulary: Annotated[int, Field(ge=2)] = 16
        pairs: Count | None = None
        noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
        noise_vocabulary: Count = 16
        motif: Count = 1

        @classmethod
        def examples(cls):
            return [cls(), cls(noise=0.2), cls(vocabulary=8, motif=3, pairs=4)]

    recalls = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError where there are fewer keys than pairs, or where the pairs do not fill the rows."""
        config = self.config
        task = Tables(
            config.vocabulary, config.pairs or config.vocabulary // 2, config.noise, config.noise_vocabulary, config.motif
        )
        return generated(task, "in_context_recall", config, data.context)


class Tables(NamedTuple):
    """The Task. symbols: token ids of keys and values. pairs: in the table of a row."""

    symbols: int
    pairs: int
    noise: float
    noise_symbols: int
    motif: int

    @property
    def vocabulary(self) -> int:
        """Keys, values and noise."""
        return self.symbols + (self.noise_symbols if self.noise else 0)

    def shown(self, context: int) -> int:
        """Pairs that a row of `context` tokens shows."""
        return int(context * (1 - self.noise)) // (2 * self.motif)

    def check(self, context: int) -> None:
        """At least two pairs; without noise, the pairs fill the row."""
        keys = (self.symbols // 2) ** self.motif
        if keys < self.pairs:
            reason = f"{self.symbols} tokens give {keys:,} keys of {self.motif}, fewer than {self.pairs:,} pairs"
            raise DataError(reason, key=(*SOURCE, "vocabulary"))
        if max(keys, (self.symbols - self.symbols // 2) ** self.motif) > 2**53:
            raise DataError("too long: expected at most 2^53 motifs", key=(*SOURCE, "motif"))
        if self.shown(context) < 2:
            reason = f"a row of {context} tokens is too short for two pairs of {2 * self.motif} tokens"
            raise DataError(f"{reason} with a share of {self.noise:g} noise", key=("data", "context"))
        if not self.noise and context % (2 * self.motif):
            raise DataError(
                f"expected a multiple of {2 * self.motif}, the tokens of a pair, got {context}", key=("data", "context")
            )

    def draw(self, random: Draws, context: int) -> Content:
        """The table of each row, and the first pairs that it shows."""
        values = (self.symbols - self.symbols // 2) ** self.motif
        keys_NP, values_NP = random.distinct((self.symbols // 2) ** self.motif, self.pairs), random.below(values, self.pairs)
        return {"keys": keys_NP, "values": values_NP, "first": random.below(self.pairs, min(HEAD, self.shown(context)))}

    def instance(self, content: Content) -> Whole:
        """The first pairs that the row shows."""
        parts = [np.take_along_axis(content[name], content["first"], 1) for name in ("keys", "values")]
        return np.concatenate(parts, 1)

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """Pairs and noise in random order."""
        rows, shown, length = len(random), self.shown(context), 2 * self.motif
        noise = context - shown * length
        order_NS = random.below(self.pairs, shown)
        order_NS[:, : content["first"].shape[1]] = content["first"]
        if self.noise:
            tokens_NT = self.symbols + random.below(self.noise_symbols, context)
            is_pair_NI = np.ones((rows, shown + noise), dtype=bool)
            np.put_along_axis(is_pair_NI, random.distinct(shown + noise, noise), False, 1)
            length_NI = np.where(is_pair_NI, length, 1)
            start_NS = (length_NI.cumsum(1) - length_NI)[is_pair_NI].reshape(rows, shown)
        else:
            tokens_NT = np.zeros((rows, context), dtype=np.int64)
            start_NS = np.broadcast_to(np.arange(shown) * length, (rows, shown))
        half = self.symbols // 2
        keys_NSK = spelt(np.take_along_axis(content["keys"], order_NS, 1), half, self.motif)
        values_NSK = half + spelt(np.take_along_axis(content["values"], order_NS, 1), self.symbols - half, self.motif)
        place_NSL = start_NS[..., None] + np.arange(length)
        np.put_along_axis(tokens_NT, place_NSL.reshape(rows, -1), np.concatenate([keys_NSK, values_NSK], 2).reshape(rows, -1), 1)
        earlier_NS, known_NS = self._earlier(order_NS, start_NS)
        seen_NS = earlier_NS >= 0
        scored_NSK = place_NSL[..., self.motif - 1 : -1]  # where the tokens of the value are predicted
        targets_NT = _placed(context, -1, scored_NSK, np.where(seen_NS[..., None], values_NSK, -1))
        distance_NT = _placed(context, 0, scored_NSK, np.where(seen_NS, start_NS - earlier_NS, 0)[..., None])
        pairs_NT = _placed(context, 0, scored_NSK, np.where(seen_NS, known_NS, 0)[..., None])
        return Filled(tokens_NT, targets_NT, {"distance": distance_NT, "pairs": pairs_NT})

    def _earlier(self, order_NS: Whole, start_NS: Whole) -> tuple[Whole, Whole]:
        """Where each pair stood last before (-1: nowhere), and how many different pairs came before it."""
        rows = np.arange(len(order_NS))
        last_NP = np.full((len(rows), self.pairs), -1)
        earlier_NS, known_NS = np.empty_like(order_NS), np.empty_like(order_NS)
        for s in range(order_NS.shape[1]):
            earlier_NS[:, s], known_NS[:, s] = last_NP[rows, order_NS[:, s]], (last_NP >= 0).sum(1)
            last_NP[rows, order_NS[:, s]] = start_NS[:, s]
        return earlier_NS, known_NS


def _placed(context: int, elsewhere: int, place_NSK: Whole, value_NSK: Whole) -> Whole:
    """(N, context): values at places of each row, and one number everywhere else."""
    into_NT = np.full((len(place_NSK), context), elsewhere, dtype=np.int64)
    flat = np.broadcast_to(value_NSK, place_NSK.shape).reshape(len(into_NT), -1)
    np.put_along_axis(into_NT, place_NSK.reshape(len(into_NT), -1), flat, 1)
    return into_NT
