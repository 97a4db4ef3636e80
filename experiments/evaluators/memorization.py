"""How often a model continues a training text word for word (Gemma 2, section 7; Gemma 3, section 6).

Shapes: B rows, T tokens.
"""

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.generate import generate
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Fraction, List, Spec, later
from arch.words import listed
from experiments import long_texts
from experiments.split_rows import batch_rows

Repetitions = Annotated[int, Field(ge=0)]

TRAIN, HELD_OUT = "train", "held out"
HELD_OUT_NAME = "_held_out"
BARS = 10

EDITS = Chart(
    kind="histogram",
    x="from",
    to="to",
    y="share",
    by="text",
    title="edits per token of the continuation",
    labels={"from": "edits per token", "share": "share of documents"},
    bounds={"share": (0.0, 1.0)},
)
REPEATED = Chart(
    kind="curve",
    x="repetitions",
    y="rate",
    by="kind",
    title="memorized, by the number of repetitions",
    labels={"repetitions": "copies in the training texts", "rate": "share of documents"},
    log=("repetitions",),
    bounds={"rate": (0.0, 1.0)},
)


@evaluator
class Memorization:
    """Discoverable memorization: the model reads the first tokens of a training document and continues it greedily.

    `memorized_exact` is the share of training documents whose continuation is the document's own, token for token;
    `memorized_approximate` allows edits (insertions, deletions, replacements of tokens) up to a share of the continuation,
    10 % as in Gemma 3. `memorized_exact_held_out` and `memorized_approximate_held_out` are the same of documents that no
    run trains on: what can be guessed. Only what exceeds it was memorized.

    With `repetitions`, the documents are those that the source `planted` plants so often, and each metric is NAME@REPETITIONS:
    `memorized_exact@64`; of 0 are those that it holds out. `edits_per_token@64`, the mean edits per token of the continuation,
    says more where few documents, or nearly all, are memorized.
    """

    class Config(Spec):
        """rows: documents of each kind, at most. prefix, continuation: tokens, counted after `<bos>`.

        within: edits per token of the continuation that still count as approximate. repetitions: numbers among those of the
        source `planted`, or 0; in place of training documents.
        """

        rows: Count = 64
        prefix: Count = 50
        continuation: Count = 50
        within: Fraction = 0.1
        repetitions: Annotated[List[Repetitions], AfterValidator(long_texts.distinct)] | None = later(None)

    needs = frozenset({"decodes", "text"})
    charts: tuple[Chart, ...] = (EDITS,)

    def __init__(self, config: Config):
        self.config = config
        if config.repetitions is not None:
            self.charts = (REPEATED, EDITS)
        # What is held out of planted documents is compared with what is planted.
        self.metrics = {
            f"memorized_{kind}{of}": Metric(unit="of documents", better="neither" if of == HELD_OUT_NAME else "lower")
            for of in self._parts("")
            for kind in ("exact", "approximate")
        }
        if config.repetitions is not None:
            self.metrics |= {f"edits_per_token{of}": Metric(unit="edits per token", better="higher") for of in self._parts("")}

    @property
    def _tokens(self):
        return 1 + self.config.prefix + self.config.continuation

    def _parts(self, split: str) -> dict[str, tuple[str, str | int]]:
        """{what stands behind a metric's name: (the documents in words, their split, or how often they are planted)}"""
        if self.config.repetitions is None:
            return {"": (TRAIN, "train"), HELD_OUT_NAME: (HELD_OUT, split)}
        return {f"@{each}": (f"planted {each} times" if each else HELD_OUT, each) for each in self.config.repetitions}

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where documents of prefix and continuation are missing: in a split, or planted so often."""
        planted = {} if self.config.repetitions is None or not hasattr(dataset, "planted") else dataset.planted()
        for _, part in self._parts(split).values():
            if isinstance(part, str):
                long_texts.check(dataset, part, self._tokens, "prefix")
            elif part not in planted:
                known = (
                    f"it plants {listed(list(map(str, planted)))} times" if planted else "it plants nothing (`type: planted` does)"
                )
                raise SpecError(f"no document is planted {part} times: {known}", ("repetitions",))
            elif not any(len(each) >= self._tokens for each in planted[part]):
                longest = max(map(len, planted[part]))
                reason = f"no document that is planted {part} times has {self._tokens:,} tokens; the longest has {longest:,}"
                raise SpecError(reason, ("prefix",))

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The shares of memorized documents; the table has them, the mean edits and a histogram of the edits."""
        values: dict[str, float] = {}
        table: list[dict[str, Any]] = []
        for of, (text, part) in self._parts(given.split).items():
            edits = np.concatenate(list(self._edits(model, dataset, part, given)))
            exact, approximate = (edits == 0).mean(), (edits <= self.config.within * self.config.continuation).mean()
            values |= {f"memorized_exact{of}": float(exact), f"memorized_approximate{of}": float(approximate)}
            if self.config.repetitions is not None:
                values[f"edits_per_token{of}"] = float(edits.mean() / self.config.continuation)
            table += _rows(text, edits, self.config.continuation, float(exact), float(approximate))
        return Findings(values, table + self._points(values))

    def _points(self, values):
        """A plain row per number of repetitions and kind, and beside it what is guessed of documents that are held out."""
        of, floor = self.config.repetitions or (), ", never trained"
        points = [(each, kind, f"@{each}", "") for each in of if each for kind in ("exact", "approximate")]
        points += [(each, kind, "@0", floor) for each, kind, _, _ in points if 0 in of]
        return [
            {"repetitions": each, "kind": kind + text, "rate": values[f"memorized_{kind}{at}"]} for each, kind, at, text in points
        ]

    def _edits(self, model, dataset, part, given):
        """Yields the edits between what the model writes and what the document says, (B,) per batch."""
        for tokens_BT in self._documents(dataset, part, given):
            prompt_BT, said_BT = tokens_BT.split([1 + self.config.prefix, self.config.continuation], 1)
            written_BT = generate(model, prompt_BT, self.config.continuation, temperature=0.0)
            yield edit_distances(written_BT.cpu().numpy(), said_BT.cpu().numpy())

    def _documents(self, dataset, part, given):
        """Yields the first tokens of documents of a split, or of those that are planted so often."""
        if isinstance(part, str):
            yield from (rows.tokens_BT for rows in long_texts.documents(dataset, part, self.config.rows, self._tokens, given))
            return
        long = [each[: self._tokens] for each in dataset.planted()[part] if len(each) >= self._tokens][: self.config.rows]
        yield from torch.from_numpy(np.stack(long)).to(given.device).split(batch_rows(given, self._tokens))


def edit_distances(a_BT: np.ndarray, b_BT: np.ndarray) -> np.ndarray:
    """The fewest insertions, deletions and replacements of tokens that turn each row of `a` into that of `b`: (B,).

    Levenshtein's distance, all rows at once: `before` and `now` are two lines of the usual table, of each row.
    """
    rows, longest = b_BT.shape
    now = np.broadcast_to(np.arange(longest + 1), (rows, longest + 1)).copy()
    for i in range(a_BT.shape[1]):
        before, now = now, np.empty_like(now)
        now[:, 0] = i + 1
        replaced = before[:, :-1] + (a_BT[:, i, None] != b_BT)
        cheapest = np.minimum(replaced, before[:, 1:] + 1)
        for j in range(longest):
            now[:, j + 1] = np.minimum(cheapest[:, j], now[:, j] + 1)
    return now[:, -1]


def _rows(text, edits, tokens, exact, approximate) -> list[dict[str, Any]]:
    """Plain rows: one of the whole text, then the bars of a histogram of edits per token; a bar includes its upper end."""
    whole = {"text": text, "documents": len(edits), "exact": exact, "approximate": approximate}
    bar = np.maximum(0, -(-edits * BARS // tokens) - 1)
    counts = np.bincount(bar, minlength=BARS).tolist()
    bars = [{"text": text, "from": i / BARS, "to": (i + 1) / BARS, "share": n / len(edits)} for i, n in enumerate(counts)]
    return [{**whole, "edits_per_token": float(edits.mean() / tokens)}, *bars]
