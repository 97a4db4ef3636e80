"""Multi-query associative recall: pairs of a key and a value, then questions for the values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import Count, List, Positive, Spec
from experiments.data.draws import Draws, Whole
from experiments.data.generated import Content, Filled, Generated, generated
from experiments.spec import DataSpec

SOURCE = ("data", "source")


class Setting(NamedTuple):
    """A published setting. context: tokens per row."""

    context: int
    vocabulary: int
    pairs: int
    power: float
    noise: bool


# Arora et al. 2023, "Zoology", figure 2: four lengths, always of 8,192 tokens.
PRESETS = {
    "zoology_64_4": Setting(64, 8192, 4, 0.01, False),
    "zoology_128_8": Setting(128, 8192, 8, 0.01, False),
    "zoology_256_16": Setting(256, 8192, 16, 0.01, False),
    "zoology_512_64": Setting(512, 8192, 64, 0.01, False),
}


class Segment(NamedTuple):
    """Rows of a mixture. tokens: within which the pairs and their questions stand; share: of the rows, beside the others'."""

    tokens: int
    pairs: int
    share: int


# Arora et al. 2024, "Based", figure 2, after Zoology's published configurations: trained on 180,000 rows of five kinds, tested
# on 1,000 rows of each of seven, up to four times as long. Every row is filled up to `data.context`, where Zoology has batches of
# one kind each.
FRONTIER_CONTEXT, FRONTIER_POWER, FRONTIER_VOCABULARY = 256, 0.01, 8192
FRONTIER_TRAIN = (Segment(64, 4, 5), Segment(128, 8, 1), Segment(256, 16, 1), Segment(256, 32, 1), Segment(256, 64, 1))
FRONTIER_TEST = (
    *(Segment(64, pairs, 1) for pairs in (4, 8, 16)),
    *(Segment(4 * pairs, pairs, 1) for pairs in (32, 64, 128, 256)),
)


@source
class MQAR:
    """Multi-query associative recall (Zoology): `k1 v1 k2 v2 ...`, then each key once more, where its value is to be predicted.

    Scored are the questions alone. The first half of the vocabulary are keys, the second half values, and token 0 fills the
    places between questions; the answers are not in the row.
    """

    class Config(Spec):
        """preset: a published setting, in place of all other options; `data.context` must be its length.

        `zoology_frontier` mixes rows of several lengths and numbers of pairs, filled up to 256 tokens. On the report split it has
        those of the published test that fit: all of them where an evaluator's own context is 1024.

        vocabulary: token ids. pairs: per row; of several numbers, each row draws one. power: of the law of the gaps between
        the pairs and their questions, p(gap) ~ gap^(power - 1); small values ask early, 1 anywhere. noise: random tokens
        between the questions, not token 0.
        """

        preset: Literal["zoology_64_4", "zoology_128_8", "zoology_256_16", "zoology_512_64", "zoology_frontier"] | None = None
        vocabulary: Annotated[int, Field(ge=4)] | None = None
        pairs: Count | Annotated[List[Count], Field(min_length=1)] | None = None
        power: Positive | None = None
        noise: bool | None = None

        @classmethod
        def examples(cls):
            return [cls(preset="zoology_64_4"), cls(vocabulary=64, pairs=(2, 4), power=1.0, noise=True)]

    recalls = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Generated:
        """Raises DataError for a preset with other options or another context, and for pairs that a row cannot hold."""
        config = self.config
        options = {name: getattr(config, name) for name in ("vocabulary", "pairs", "power", "noise")}
        written: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if config.preset:
            for name in written:
                raise DataError(
                    f"the preset {config.preset} says it already; expected one of the two; null leaves an option out",
                    key=(*SOURCE, name),
                )
            frontier = config.preset == "zoology_frontier"
            tokens = FRONTIER_CONTEXT if frontier else PRESETS[config.preset].context
            if data.context != tokens:
                reason = f"the preset {config.preset} has {tokens} tokens per row, not {data.context}"
                raise DataError(reason, key=("data", "context"))
            if frontier:
                return generated(Mixture(FRONTIER_TRAIN, FRONTIER_TEST), "mqar", config, data.context)
            setting = PRESETS[config.preset]
            task = Recall(setting.vocabulary, (setting.pairs,), setting.power, setting.noise)
        else:
            for name in ("vocabulary", "pairs"):
                if name not in written:
                    raise DataError("missing: expected a number, or a preset", key=(*SOURCE, name))
            pairs = written["pairs"]
            task = Recall(
                written["vocabulary"], pairs if isinstance(pairs, tuple) else (pairs,), config.power or 0.01, bool(config.noise)
            )
        return generated(task, "mqar", config, data.context)


class Recall(NamedTuple):
    """The Task. pairs: the numbers of pairs that rows may have; one that is named twice is twice as frequent.

    within: {pairs: the tokens at the start of a row that hold the pairs and their questions}; by default the whole row.
    """

    vocabulary: int
    pairs: tuple[int, ...]
    power: float
    noise: bool
    within: Mapping[int, int] = MappingProxyType({})

    def check(self, context: int) -> None:
        """A row needs two tokens for each pair and two for each question; keys and values are distinct."""
        most, keys = max(self.pairs), self.vocabulary // 2 - 1
        if context < 4 * most:
            needed = f"{most} pairs and their questions need {4 * most:,} tokens"
            raise DataError(f"a row of {context:,} tokens is too short: {needed}", key=(*SOURCE, "pairs"))
        if keys < most:
            reason = f"{most} pairs need {2 * most + 2:,} tokens: 0, {most} keys and as many values, by halves"
            raise DataError(f"{self.vocabulary:,} is too small: {reason}", key=(*SOURCE, "vocabulary"))

    def draw(self, random: Draws, context: int) -> Content:
        """Distinct keys and distinct values; 0 behind the last pair of a row."""
        most, half = max(self.pairs), self.vocabulary // 2
        pairs_N = random.among(self.pairs)
        keys_NP = 1 + random.distinct(half - 1, most)
        values_NP = half + random.distinct(self.vocabulary - half, most)
        there_NP = np.arange(most) < pairs_N[:, None]
        return {"pairs": pairs_N, "keys": keys_NP * there_NP, "values": values_NP * there_NP}

    def instance(self, content: Content) -> Whole:
        """The pairs in their order."""
        return np.concatenate([content["keys"], content["values"]], 1)

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """The pairs first. A question stands at an even distance behind them, so that no two touch."""
        rows = len(random)
        tokens_NT = random.below(self.vocabulary, context) if self.noise else np.zeros((rows, context), dtype=np.int64)
        targets_NT = np.full_like(tokens_NT, -1)
        distance_NT, pairs_NT = np.zeros_like(tokens_NT), np.zeros_like(tokens_NT)
        for pairs in dict.fromkeys(self.pairs):
            n = np.flatnonzero(content["pairs"] == pairs)
            slots = (self.within.get(pairs, context) - 2 * pairs) // 2
            # Drawn for every row, so that a row does not depend on which others have as many pairs.
            slot_NP = random.sample(np.arange(1, slots + 1) ** (self.power - 1), pairs)[n]
            keys_nP, values_nP = content["keys"][n, :pairs], content["values"][n, :pairs]
            tokens_NT[n, : 2 * pairs] = np.stack([keys_nP, values_nP], 2).reshape(len(n), 2 * pairs)
            place_nP = 2 * (pairs + slot_NP)
            tokens_NT[n[:, None], place_nP] = keys_nP
            targets_NT[n[:, None], place_nP] = values_nP
            distance_NT[n[:, None], place_nP] = place_nP - 2 * np.arange(pairs)
            pairs_NT[n[:, None], place_nP] = pairs
        return Filled(tokens_NT, targets_NT, {"distance": distance_NT, "pairs": pairs_NT})


class Mixture(NamedTuple):
    """The Task of rows of several lengths and numbers of pairs. train, test: those of training and selection, and of the report."""

    train: tuple[Segment, ...]
    test: tuple[Segment, ...]

    @property
    def vocabulary(self) -> int:
        """Of all segments."""
        return FRONTIER_VOCABULARY

    def check(self, context: int) -> None:
        """A row holds the longest of training, and at least one of the test."""
        longest = max(each.tokens for each in self.train)
        if context < longest:
            raise DataError(f"the preset's rows have up to {longest} tokens, not {context:,}", key=("data", "context"))

    def draw(self, random: Draws, context: int) -> Content:
        """As Recall, of the segments of the split."""
        return self._of(random.split, context).draw(random, context)

    def instance(self, content: Content) -> Whole:
        """The pairs in their order, in as many places for every split: equal pairs are one instance."""
        most = max(each.pairs for each in (*self.train, *self.test))
        return np.concatenate(
            [np.pad(each, ((0, 0), (0, most - each.shape[1]))) for each in (content["keys"], content["values"])], 1
        )

    def fill(self, content: Content, random: Draws, context: int) -> Filled:
        """As Recall, of the segments of the split."""
        return self._of(random.split, context).fill(content, random, context)

    def _of(self, split: str, context: int) -> Recall:
        segments = [each for each in (self.test if split == "report" else self.train) if each.tokens <= context]
        pairs = tuple(each.pairs for each in segments for _ in range(each.share))
        return Recall(FRONTIER_VOCABULARY, pairs, FRONTIER_POWER, False, {each.pairs: each.tokens for each in segments})
