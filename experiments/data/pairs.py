"""Pairs of texts, a query and what answers it: what a source of pairs offers, and the dataset that they become.

* A text becomes a row of its own: `<bos>`, its prompt, the text, `<eos>`. A row that is longer than the context is cut, and
  `<eos>` stays its last token. Rows of a batch are padded on the right.
* All pairs of a group are in one split, by the hash of the group's name; no text is in two splits (`pair_corpus`).
* An epoch reads each training pair once, in an order drawn from the seed. With several hard negatives per pair, the e-th time
  that a pair is read it comes with number e, and then again with the first.
* Where there are several parts (the source `mix`), a batch comes from one of them (`mixture`).

Shapes: B rows, T tokens, N pairs of a split, E texts with their prompts, K hard negatives.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from arch.errors import DataError
from arch.layout import TokenLayout
from arch.spec import Count, Positive, Spec
from arch.words import listed, times
from experiments.data import left_out, mixture
from experiments.data.batch import Batch, Rows
from experiments.data.packing import EVALUATION_SEED, training_rows
from experiments.data.specials import PAD, Ends

Whole = NDArray[np.int64]
# The kinds of rows: a query has the first prompt, a positive and a hard negative have the second.
KINDS = ("query", "document")


class Pair(NamedTuple):
    """A query, its positive and its hard negatives, as texts without prompts.

    group: all pairs of a group are in the same split (a module, a page); empty: the positive is the group. label: what a
    probe may predict. part: the part of a mixture that it is of.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    group: str = ""
    label: str = ""
    part: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The query, the positive, the hard negatives."""
        return (self.query, self.positive, *self.negatives)


class Prompts(Spec):
    """What stands in front of a text, part of the input and of the pool (EmbeddingGemma's two prompts for retrieval by default).

    query: of queries. document: of positives and hard negatives.
    """

    query: str = "task: search result | query: "
    document: str = "title: none | text: "


class Negatives(Spec):
    """Hard negatives, mined for the training pairs among the other positives of the train split.

    by: how near a text is to a query: by `bm25`, or by the vectors of an `encoder`. k: hard negatives per pair. below: a negative's
    score is at most this share of the positive's, because what is nearer may be right too; null: any score. checkpoint: the
    folder of the encoder.
    """

    by: Literal["bm25", "encoder"] = "bm25"
    k: Count = 1
    below: Positive | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _encoder_has_a_checkpoint(self):
        if (self.checkpoint is None) == (self.by == "encoder"):
            raise ValueError("checkpoint: `by: encoder` needs the folder of an encoder, and `by: bm25` takes none")
        return self


class PairOptions(Spec):
    """The options of every source of pairs.

    prompts: what stands in front of queries and documents. negatives: hard negatives to be mined; null: none.
    """

    prompts: Prompts = Prompts()
    negatives: Negatives | None = None


@dataclass(frozen=True)
class Part:
    """The options of one part of a dataset of pairs. weight: a batch comes from it with a probability proportional to it."""

    prompts: Prompts = Prompts()
    negatives: Negatives | None = None
    weight: float = 1.0


def parts_of(source: Any) -> dict[str, Part]:
    """{name: Part} of a source of pairs; a source without `parts` is one part, with an empty name."""
    if hasattr(source, "parts"):
        found: dict[str, Part] = source.parts()
        return found
    config = source.config
    return {"": Part(getattr(config, "prompts", Prompts()), getattr(config, "negatives", None))}


def bare(kind: str, config: Spec) -> dict[str, Any]:
    """The resolved source of these options without those that do not decide its pairs, for `Source.texts`."""
    return {"type": kind, **{key: value for key, value in config.dump().items() if key not in PairOptions.model_fields}}


def text_number(text: str) -> int:
    """The first 63 bits of the sha256 of a text without its prompt: equal numbers mean equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts with their prompts as tokens. tokens: of all of them, one after the other; starts: (E + 1,). text_E: `text_number`.

    eos: the token that ends a row, which stays where a row is cut; None: there is none. pad: stands behind shorter rows.
    """

    tokens: NDArray[Any]
    starts: Whole
    text_E: Whole
    eos: int | None
    pad: int

    @property
    def length_E(self) -> Whole:
        """The tokens of each, before any cut."""
        return np.diff(self.starts)

    def rows(self, entry_B: Whole, key_B: Whole, context: int) -> Rows:
        """These texts as rows of at most `context` tokens, as long as the longest of them."""
        whole_B = self.length_E[entry_B]
        length_B = np.minimum(whole_B, context)
        place_T = np.arange(length_B.max())
        place_BT = self.starts[entry_B][:, None] + place_T
        inside_BT = place_T < length_B[:, None]
        tokens_BT = self.tokens[np.where(inside_BT, place_BT, 0)].astype(np.int64)
        tokens_BT = np.where(inside_BT, tokens_BT, self.pad)
        if self.eos is not None:
            cut_B = whole_B > context
            tokens_BT[cut_B, context - 1] = self.eos
        layout = TokenLayout.right_padded(torch.from_numpy(length_B), len(place_T))
        extra = {"text": torch.from_numpy(self.text_E[entry_B])}
        return Rows(torch.from_numpy(tokens_BT), layout, key_B=torch.from_numpy(key_B), extra=extra)


@dataclass(frozen=True, eq=False)
class Split:
    """The pairs of a split, part after part, as numbers of texts in `Encoded`.

    query_N, positive_N: of each pair. negatives, starts_N: the hard negatives of all pairs, one after the other, and where
    those of each begin (N + 1,); empty where there are none. first: {part: (its first pair, how many it has)}.
    """

    query_N: Whole
    positive_N: Whole
    negatives: Whole
    starts_N: Whole
    first: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.query_N)

    def negative(self, number_B: Whole, epoch_B: Whole) -> Whole | None:
        """The hard negative of each of these pairs when it is read for the `epoch_B`-th time; None where there are none."""
        first_B = self.starts_N[number_B]
        count_B = self.starts_N[number_B + 1] - first_B
        return self.negatives[first_B + epoch_B % count_B] if count_B.all() else None


@dataclass(frozen=True, eq=False)
class Pairs:
    """The Dataset of pairs of texts. Batches have the kinds `query`, `positive` and, where there are hard negatives, `negative`.

    fingerprint: a digest (hex) of the pairs in order, the split rule, the prompts, the tokenizer's content, the mined negatives
    and, of a mixture, the weights. source: the source's type. parts: {name: Part}, one with an empty name but for a mixture.
    vocabulary: the number of token ids. sizes: {split: {pairs, groups, tokens}}. context: of the DataSpec. folder: where the
    texts are. lost: how many texts the tokenizer changes; `on_loss` says what was done with them. said: further sentences.
    """

    fingerprint: str
    source: str
    tokenizer: tokenizers.Tokenizer
    ends: Ends
    vocabulary: int
    encoded_texts: Encoded
    splits: dict[str, Split]
    sizes: dict[str, dict[str, int]]
    folder: Path
    parts: dict[str, Part] = field(default_factory=lambda: {"": Part()})
    content: str = ""
    context: int = 0
    left_out: dict[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> dict[str, str]:
        """{query, document: the prompt}. Where the parts of a mixture have others: those of the first, and NAME-query and so on of all."""
        first = next(iter(self.parts.values())).prompts.dump()
        if all(part.prompts.dump() == first for part in self.parts.values()):
            return first
        return first | {f"{name}-{kind}": getattr(part.prompts, kind) for name, part in self.parts.items() for kind in KINDS}

    def rows(self, split: str, context: int) -> int:
        """The number of pairs in a split."""
        return len(self.splits[split])

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The `rows` pairs of step `step` (from 0): a pure function of the arguments. Raises DataError for more than there are."""
        name, step = mixture.part_of(self._weights, seed, step)
        first, available = self.splits[split].first[name]
        self._check_rows(split, name, rows)
        number_B = first + training_rows(available, step, seed, rows)
        return self._batch(split, number_B, (step * rows + np.arange(rows)) // available, context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` pairs in batches of at most `batch_rows`, the same for every arm and every seed; all if there are fewer.

        Of the parts of a mixture equally many, whatever their weights are. The batches of a part are of nearly equal size, so
        that no last one is nearly without negatives. With the first of the hard negatives.
        """
        firsts = self.splits[split].first
        shares = mixture.equal_shares([count for _, count in firsts.values()], rows)
        for (first, available), share in zip(firsts.values(), shares, strict=True):
            drawn_N = first + np.random.default_rng(EVALUATION_SEED).permutation(available)[:share]
            for number_B in np.array_split(drawn_N, -(-share // batch_rows)) if share else ():
                yield self.numbered(split, number_B, context)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> Whole:
        """The numbers of all pairs that `steps` steps read, ascending, each once: (N,)."""
        read = []
        for name, count in mixture.counts(self._weights, seed, steps).items():
            first, available = self.splits[split].first[name]
            if count:
                read.append(first + training_rows(available, 0, seed, min(count * rows, available)))
        return np.unique(np.concatenate(read)) if read else np.empty(0, np.int64)

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """The pairs with these numbers, with the first of their hard negatives. They may be of different parts."""
        number_B = np.asarray(numbers, dtype=np.int64)
        return self._batch(split, number_B, np.zeros_like(number_B), context)

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split as texts, in the order of their numbers; with mined hard negatives."""
        return self._texts_of[split] if split in self._texts_of else self._texts_of.setdefault(split, self._read(split))

    def encoded(self, texts: Sequence[str], kind: str, context: int, part: str | None = None) -> Rows:
        """Any texts as rows, in the same form as in training. kind: `query` or `document`, which decides the prompt.

        part: whose prompt; needed where the parts of a mixture have different ones. Raises ValueError.
        """
        if kind not in KINDS:
            raise ValueError(f"the kind {kind!r} of a text: expected {listed(KINDS, 'or')}")
        if part is None and len({getattr(each.prompts, kind) for each in self.parts.values()}) > 1:
            raise ValueError(f"the parts {listed(self.parts)} have different prompts; say which part the texts are of")
        name = next(iter(self.parts)) if part is None else part
        prompt = getattr(self.parts[name].prompts, kind)
        made = encode(self.tokenizer, self.ends, [(prompt, text) for text in texts])
        number_B = np.arange(len(texts))
        return made.rows(number_B, number_B, context)

    @property
    def notes(self) -> list[str]:
        """Sentences for a run's record: what is left out, what is cut, and which positives stand in several pairs."""
        said = left_out.sentences(self.left_out)
        for name, about in self._cut.items():
            if about["cut"]:
                said.append(
                    f"{about['cut']:,} of {about['texts']:,} {name} are longer than {self.context:,} tokens and are cut; "
                    f"the longest has {about['longest']:,}"
                )
        repeated = self.repeated_positives("train")
        if repeated:
            said.append(f"{times(repeated, 'training pair')} share their positive with another one")
        return said

    def repeated_positives(self, split: str) -> int:
        """How many pairs of a split have a positive that is another pair's too."""
        text_N = self.encoded_texts.text_E[self.splits[split].positive_N]
        _, count = np.unique(text_N, return_counts=True)
        return int(count[count > 1].sum())

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record: fingerprint, digest of the pairs, source, vocabulary, sizes, what was cut and left out."""
        about = {"fingerprint": self.fingerprint, "pairs": self.content, "source": self.source, "vocabulary": self.vocabulary}
        shares = {"parts": dict(self._weights)} if len(self.parts) > 1 else {}
        return {**about, "splits": {split: dict(each) for split, each in self.sizes.items()}, "cut": self._cut, **shares, **self.left_out}

    @cached_property
    def _cut(self) -> dict[str, dict[str, int]]:
        """{queries, documents: {texts, cut, longest}}: the different texts with their prompts, in tokens."""
        found = {}
        for name, entries in (("queries", [each.query_N for each in self.splits.values()]),
                              ("documents", [part for each in self.splits.values() for part in (each.positive_N, each.negatives)])):  # fmt: skip
            length_E = self.encoded_texts.length_E[np.unique(np.concatenate(entries))]
            found[name] = {"texts": len(length_E), "cut": int((length_E > self.context).sum()), "longest": int(length_E.max())}
        return found

    @cached_property
    def _weights(self) -> mixture.Weights:
        return tuple((name, part.weight) for name, part in self.parts.items())

    @cached_property
    def _texts_of(self) -> dict[str, list[Pair]]:
        return {}

    def _read(self, split: str) -> list[Pair]:
        return []

    def _batch(self, split: str, number_B: Whole, epoch_B: Whole, context: int) -> Batch:
        return Batch()

    def _check_rows(self, split: str, name: str, rows: int) -> None:
        raise DataError("")
