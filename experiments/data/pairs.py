"""The dataset of pairs of texts: batches of queries, their positives and, where there are some, hard negatives.

* All pairs of a group are in one split, and no text is in two (`pair_corpus`).
* An epoch reads each training pair once, in an order drawn from the seed. A pair with several hard negatives comes with number
  e when it is read for the e-th time, and then again with the first.
* Of a mixture, a batch comes from one part (`mixture`): EmbeddingGemma, section 2.3.
* Each text is a row of its own (`encoded`).

Shapes: B rows, T tokens, N pairs of a split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from arch.errors import DataError
from arch.texts_to_rows import ids_of, within
from arch.words import listed, times
from experiments.data import left_out, mixture
from experiments.data.batch import Batch, Rows
from experiments.data.encoded import Encoded, encoded
from experiments.data.packing import EVALUATION_SEED, training_rows
from experiments.data.pair import KINDS, Pair, Part
from experiments.data.specials import Ends

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The pairs of a split, part after part, as numbers of texts of an `Encoded`.

    query_N, positive_N: of each pair. negatives: the hard negatives of all pairs, one pair after the other; starts: where those
    of each pair begin (N + 1,). first: {part: (the number of its first pair, how many it has)}.
    """

    query_N: Whole
    positive_N: Whole
    negatives: Whole
    starts: Whole
    first: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.query_N)

    def negative(self, number_B: Whole, epoch_B: Whole) -> Whole | None:
        """A hard negative of each of these pairs, when it is read for the `epoch_B`-th time (from 0); None without any."""
        first_B, count_B = self.starts[number_B], self.starts[number_B + 1] - self.starts[number_B]
        return self.negatives[first_B + epoch_B % count_B] if count_B.all() else None


@dataclass(frozen=True, eq=False)
class Pairs:
    """The Dataset of pairs. The kinds of its batches are `query`, `positive` and, of all rows or none, `negative`.

    fingerprint: a digest (hex) of the pairs in order, the rule of the splits, the prompts, the tokenizer's content, the mined
    negatives and, of a mixture, the weights. source: the source's type. vocabulary: the number of token ids. ends: what stands
    around a text. parts: {name: Part}; data that are no mixture are one part, whose name is empty. texts: with their prompts,
    as tokens. sizes: {split: {pairs, groups, tokens}}. folder: where the texts are. content: the digest of the pairs alone.
    context: of the DataSpec. left_out: what the source left out (`left_out.LeftOut.summary`).
    """

    fingerprint: str
    source: str
    tokenizer: tokenizers.Tokenizer
    ends: Ends
    vocabulary: int
    parts: dict[str, Part]
    texts: Encoded
    splits: dict[str, Split]
    sizes: dict[str, dict[str, int]]
    folder: Path
    content: str
    context: int = 0
    left_out: dict[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> dict[str, str]:
        """{query, document: the prompt}. Of a mixture of several prompts: those of the first part, and {NAME-query, ...} of all."""
        first: dict[str, str] = next(iter(self.parts.values())).prompts.dump()
        if all(part.prompts.dump() == first for part in self.parts.values()):
            return first
        return first | {f"{name}-{kind}": getattr(part.prompts, kind) for name, part in self.parts.items() for kind in KINDS}

    def rows(self, split: str, context: int) -> int:
        """The number of pairs in a split."""
        return len(self.splits[split])

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The Batch of step `step` (from 0): `rows` pairs of one part, a pure function of the arguments.

        Raises DataError for more rows than the part has pairs in this split.
        """
        name, place = mixture.part_of(self._weights, seed, step)
        first, available = self.splits[split].first[name]
        self.check_rows(split, rows)
        number_B = first + training_rows(available, place, seed, rows)
        return self._batch(split, number_B, (place * rows + np.arange(rows)) // available, context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` pairs in Batches of at most `batch_rows`, the same for every arm and every seed; all if there are fewer.

        A Batch comes from one part; parts give equally many, whatever their weights. Those of a part are of nearly equal size,
        so that no last one lacks negatives. Of several hard negatives, the first.
        """
        firsts = self.splits[split].first.values()
        shares = mixture.equal_shares([count for _, count in firsts], rows)
        for (first, available), share in zip(firsts, shares, strict=True):
            drawn_N = first + np.random.default_rng(EVALUATION_SEED).permutation(available)[:share]
            for number_B in np.array_split(drawn_N, max(1, -(-share // batch_rows))):
                if len(number_B):
                    yield self.numbered(split, number_B, context)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> Whole:
        """The numbers of all pairs that `steps` steps read, ascending, each once: (N,)."""
        read = [np.empty(0, np.int64)]
        for name, count in mixture.counts(self._weights, seed, steps).items():
            first, available = self.splits[split].first[name]
            read.append(first + training_rows(available, 0, seed, min(count * rows, available)) if count else read[0])
        return np.unique(np.concatenate(read))

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """The pairs with these numbers, of any part, with the first of their hard negatives."""
        number_B = np.asarray(numbers, dtype=np.int64)
        return self._batch(split, number_B, np.zeros_like(number_B), context)

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split as texts, in the order of their numbers, with all of their hard negatives."""
        if split not in self._read:
            self._read[split] = self._pairs(split)
        return self._read[split]

    def encoded(self, texts: Sequence[str], kind: str, context: int, part: str | None = None) -> Rows:
        """Any texts as rows, as in training. kind: `query` or `document`, which decides the prompt.

        part: whose prompt; needed where the parts of a mixture have different ones. Raises ValueError.
        """
        ids, _ = ids_of(self.tokenizer, self.ends, texts, self._prompt(kind, part))
        number_B = np.arange(len(texts))
        return encoded(texts, ids, self.ends.eos, self.texts.pad).rows(number_B, number_B, context)

    def written(self, number_B: Any) -> list[str]:
        """The texts with these numbers (`extra["text"]` of rows), as they were stored: whole, and without their prompt."""
        texts = self._written
        return [texts[self._entry[number]] for number in number_B.tolist()]

    def within(self, texts: Sequence[str], kind: str, context: int, part: str | None = None) -> list[str]:
        """What of any texts stands in their rows of `context` tokens, which `encoded` gives. Raises ValueError as it does."""
        return within(self.tokenizer, self.ends, texts, self._prompt(kind, part), context)

    def _prompt(self, kind: str, part: str | None) -> str:
        if kind not in KINDS or (part is not None and part not in self.parts):
            known = f"{listed(KINDS, 'or')}, of a part of {listed(map(repr, self.parts))}"
            raise ValueError(f"no prompt for the kind {kind!r}{f' of the part {part!r}' if part else ''}; expected {known}")
        prompts = {getattr(each.prompts, kind) for each in self.parts.values()} if part is None else set()
        if len(prompts) > 1:
            raise ValueError(f"the parts {listed(self.parts)} have different prompts; expected the name of one of them")
        prompt: str = prompts.pop() if part is None else getattr(self.parts[part].prompts, kind)
        return prompt

    @property
    def notes(self) -> list[str]:
        """Sentences for a run's record: what is left out, what is cut, which positives stand in several training pairs."""
        said = left_out.sentences(self.left_out)
        for name, about in self.cut.items():
            if about["cut"]:
                said.append(
                    f"{about['cut']:,} of {about['texts']:,} {name} have more than {self.context:,} tokens with their prompt "
                    f"(up to {about['longest']:,}) and are cut; the token that ends a text is kept"
                )
        if repeated := self._repeated("train"):
            said.append(f"{repeated:,} training pairs share their positive with another one")
        return said

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record: digests, source, vocabulary, sizes, how many texts are cut, what was left out."""
        about = {"fingerprint": self.fingerprint, "source": self.source, "vocabulary": self.vocabulary, "pairs": self.content}
        shares = {"parts": dict(self._weights)} if len(self.parts) > 1 else {}
        sizes = {split: dict(each) for split, each in self.sizes.items()}
        return {**about, "splits": sizes, "cut": self.cut, **shares, **self.left_out}

    @cached_property
    def cut(self) -> dict[str, dict[str, int]]:
        """{queries, documents: {texts, cut, longest}}: the different texts with their prompts, and the tokens of the longest."""
        splits = self.splits.values()
        entries = {
            "queries": [each.query_N for each in splits],
            "documents": [part for each in splits for part in (each.positive_N, each.negatives)],
        }
        length = {name: self.texts.length_E[np.unique(np.concatenate(parts))] for name, parts in entries.items()}
        return {
            name: {"texts": len(each), "cut": int((each > self.context).sum()), "longest": int(each.max())}
            for name, each in length.items()
        }

    def check_rows(self, split: str, rows: int) -> None:
        """Raises DataError where a part that is read has fewer pairs in this split than a batch has rows."""
        for name, (_, available) in self.splits[split].first.items():
            if self.parts[name].weight and rows > available:
                of = f" of the part {name}" if name else ""
                have = f"the {split} split{of} has {times(available, 'pair')}"
                raise DataError(
                    f"{rows:,} rows of a batch are different pairs, but {have}; expected at most so many", ("data", "rows")
                )

    def _repeated(self, split):
        """How many pairs of a split have a positive that is another pair's too."""
        _, counts = np.unique(self.texts.text_E[self.splits[split].positive_N], return_counts=True)
        return int(counts[counts > 1].sum())

    @cached_property
    def _weights(self) -> mixture.Weights:
        return tuple((name, part.weight) for name, part in self.parts.items())

    @cached_property
    def _read(self) -> dict[str, list[Pair]]:
        return {}

    @cached_property
    def _entry(self) -> dict[int, int]:
        """{number of a text: where it stands}, of texts that come with several prompts one of these places."""
        return {number: entry for entry, number in enumerate(self.texts.text_E.tolist())}

    @cached_property
    def _written(self) -> list[str]:
        """Every text without its prompt, as they were stored."""
        with open(self.folder / "texts.json", encoding="utf-8") as file:
            texts: list[str] = json.load(file)
        return texts

    def _pairs(self, split):
        each, texts = self.splits[split], self._written
        about = json.loads((self.folder / f"{split}.json").read_text(encoding="utf-8"))
        part = [name for name, (_, count) in each.first.items() for _ in range(count)]
        return [
            Pair(
                texts[each.query_N[i]],
                texts[each.positive_N[i]],
                tuple(texts[entry] for entry in each.negatives[each.starts[i] : each.starts[i + 1]]),
                about["groups"][i],
                about["labels"][i],
                part[i],
            )
            for i in range(len(each))
        ]

    def _batch(self, split: str, number_B: Whole, epoch_B: Whole, context: int) -> Batch:
        each = self.splits[split]
        kinds = {"query": each.query_N[number_B], "positive": each.positive_N[number_B]}
        negative_B = each.negative(number_B, epoch_B)
        kinds |= {} if negative_B is None else {"negative": negative_B}
        return Batch({kind: self.texts.rows(entry_B, number_B, context) for kind, entry_B in kinds.items()})
