"""Training rows that teach to find a fact in text: real text with a needle at a random depth, and the question at the end.

Shapes: B rows, T tokens.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tokenizers
import torch
from pydantic import AfterValidator

from arch.errors import DataError, SpecError
from arch.layout import TokenLayout
from arch.registry import source
from arch.spec import Component, Kind, Spec, digest
from experiments.data import corpus, needles, texts
from experiments.data.batch import Batch, Rows
from experiments.data.corpus import Corpus
from experiments.data.draws import numbered_key
from experiments.data.needles import LEAST_TEXT, Needles, Template
from experiments.data.specials import PAD
from experiments.data.split import SPLITS
from experiments.spec import DataSpec

# Increase this when the same options and texts give other rows.
FORMAT = 1
# A row's number is PLACE * 2^SHIFT + its place among the rows of a seed. PLACE is the seed if that is below EVALUATION; the
# other seeds have a hash between EVALUATION and 2^31, so that every number fits into 63 bits.
SHIFT, EVALUATION = 32, 2**30
ANY = 2**62  # `corpus.prepare` need not check the vocabulary: `experiments.data.dataset` does


@source
class Needle:
    """Needle in a haystack as a task: text with a fact at a random depth and its question at the end; the answer is scored.

    A row is `<bos>`, text with a needle, the question and the answer, as the evaluator `needle` asks it. The text is taken
    from any place of the split's documents, one after the other, without what stands between them. Keys, values, depths
    and places are drawn anew for every row. Splits share no document and no key.
    """

    tokenizes = recalls = True

    class Config(Spec):
        """haystack: the source of the text. template: the sentence, with {key} and {value}; the question is its beginning.

        text_scored: whether training scores every token, and not only the answer. What is measured is always the answer.
        """

        haystack: Annotated[Component, Kind("source"), AfterValidator(texts.resolved)]
        template: Template = needles.TEMPLATE
        text_scored: bool = False

    def __init__(self, config: Config):
        self.config = config
        self.texts = config.haystack

    def dataset(self, data: DataSpec) -> "NeedleRows":
        """The dataset of these options. Raises DataError for unusable text, and a context without room for a needle."""
        text = corpus.prepare(data.model_copy(update={"source": self.config.haystack}), ANY)
        try:
            drawing = Needles(self.config.template, text.tokenizer)
            longest = max(drawing.longest(split) for split in SPLITS)
        except SpecError as error:
            raise DataError(error.reason, key=("data", "source", "template")) from None
        if data.context < (least := 1 + longest + LEAST_TEXT):
            reason = f"{data.context:,} tokens cannot hold a needle and its question, which take {longest}"
            raise DataError(f"{reason}; expected at least {least}, so that there is some text", key=("data", "context"))
        return NeedleRows(self.config, text, drawing)


class NeedleRows:
    """The dataset: a row is a pure function of its split, its number and its length."""

    def __init__(self, config: Needle.Config, text: Corpus, drawing: Needles):
        self.config, self.text, self.drawing = config, text, drawing
        self.tokenizer: tokenizers.Tokenizer = text.tokenizer
        self.vocabulary, self.byte_lengths, self.context = text.vocabulary, text.byte_lengths, text.context
        options = {"template": config.template, "text_scored": config.text_scored}
        self.fingerprint = digest({"format": FORMAT, "needle": options, "text": text.fingerprint})
        around = (text.ends.bos, text.ends.eos, text.tokenizer.token_to_id(PAD))
        self.specials = [number for number in around if number is not None]
        self.begin, self.notes = text.begin, text.notes

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The rows of step `step` (from 0), which no other step reads."""
        return self.numbered(split, _first(seed) + step * rows + np.arange(rows), context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` rows that no run trains on, always the same ones. Only their answers are scored."""
        for first in range(0, rows, batch_rows):
            numbers = (EVALUATION << SHIFT) + np.arange(first, min(rows, first + batch_rows))
            yield self._batch(split, numbers, context, everywhere=False)

    def long_documents(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """The beginnings of documents of the text, without needles; as of a corpus."""
        return self.text.long_documents(split, rows, context, batch_rows)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> np.ndarray:
        """The numbers of all rows that `steps` steps read, ascending: (N,) int64."""
        return _first(seed) + np.arange(steps * rows)

    def numbered(self, split: str, numbers: np.ndarray, context: int) -> Batch:
        """The rows with these numbers. Raises DataError where a needle has no room."""
        return self._batch(split, np.asarray(numbers, dtype=np.int64), context, self.config.text_scored)

    def _batch(self, split, numbers_B, context, everywhere):
        made = [self._row(split, int(number), context) for number in numbers_B]
        tokens_BT, answer_BT, distance_BT = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        targets_BT = tokens_BT.roll(-1, 1).masked_fill(~answer_BT, -1)
        if everywhere:
            targets_BT = torch.cat([tokens_BT[:, 1:], targets_BT[:, -1:]], 1)
        extra = {"distance": distance_BT, "pairs": answer_BT.long()}
        layout = TokenLayout.whole(*tokens_BT.shape)
        return Batch.text(Rows(tokens_BT, layout, targets_BT, torch.from_numpy(numbers_B), extra))

    def _row(self, split, number, context):
        """(tokens, where the next one is of the answer, how far back the same one stands in the needle), (T,) each."""
        random = np.random.default_rng([SPLITS.index(split), number])
        needle, depth = self.drawing.draw(split, random), float(random.random())
        text_T = self._text(split, int(random.integers(len(self.text.streams[split].tokens))), context)
        try:
            row_T, distance = needles.row(needle, needle, text_T, self.begin, depth, context)
        except ValueError as error:
            raise DataError(str(error), key=("data", "context")) from None
        answer_T = np.zeros(context, dtype=bool)
        answer_T[-1 - len(needle.answer) : -1] = True
        return row_T, answer_T, np.where(answer_T, distance, 0)

    def _text(self, split, place, tokens):
        """So many tokens of the split's text from a place of its stream on, without specials; at its end it begins again."""
        stream, found, have = self.text.streams[split].tokens, [], 0
        while have < tokens:
            part = np.asarray(stream[place : place + tokens], dtype=np.int64)
            part = part[~np.isin(part, self.specials)]
            found.append(part)
            have += len(part)
            place = place + tokens if place + tokens < len(stream) else 0
        return np.concatenate(found)[:tokens]

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record: fingerprint, source, vocabulary, and the summary of the text."""
        about = {"fingerprint": self.fingerprint, "source": "needle", "vocabulary": self.vocabulary, "splits": {}}
        return {**about, "text": self.text.summary()}


def _first(seed: int) -> int:
    """The number of the first row that a seed reads."""
    place = seed if seed < EVALUATION else EVALUATION + 1 + int(numbered_key(seed)) % (EVALUATION - 1)
    return place << SHIFT
