"""How often a model continues a training text word for word (Gemma 2, section 7; Gemma 3, section 6).

Shapes: B rows, T tokens.
"""

from typing import Any

import numpy as np

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.generate import generate
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Fraction, Spec
from experiments import long_texts

TRAIN, HELD_OUT = "train", "held out"
BARS = 10


@evaluator
class Memorization:
    """Discoverable memorization: the model reads the first tokens of a training document and continues it greedily.

    `memorized_exact` is the share of training documents whose continuation is the document's own, token for token;
    `memorized_approximate` allows edits (insertions, deletions, replacements of tokens) up to a share of the continuation,
    10 % as in Gemma 3. `memorized_exact_held_out` and `memorized_approximate_held_out` are the same of documents that no
    run trains on: what can be guessed. Only what exceeds it was memorized.
    """

    class Config(Spec):
        """rows: documents of each kind. prefix, continuation: tokens, counted after `<bos>`.

        within: edits per token of the continuation that still count as approximate.
        """

        rows: Count = 64
        prefix: Count = 50
        continuation: Count = 50
        within: Fraction = 0.1

    needs = frozenset({"decodes", "text"})
    metrics = {
        "memorized_exact": Metric(unit="of documents"),
        "memorized_approximate": Metric(unit="of documents"),
        "memorized_exact_held_out": Metric(unit="of documents", better="neither"),
        "memorized_approximate_held_out": Metric(unit="of documents", better="neither"),
    }
    charts = (
        Chart(
            kind="histogram",
            x="from",
            to="to",
            y="share",
            by="text",
            title="edits per token of the continuation",
            labels={"from": "edits per token", "share": "share of documents"},
            bounds={"share": (0.0, 1.0)},
        ),
    )

    def __init__(self, config: Config):
        self.config = config

    @property
    def _tokens(self):
        return 1 + self.config.prefix + self.config.continuation

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the train split or this one has no document of prefix and continuation."""
        for part in ("train", split):
            long_texts.check(dataset, part, self._tokens, "prefix")

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The shares of memorized documents; the table has them, the mean edits and a histogram of the edits."""
        values: dict[str, float] = {}
        table: list[dict[str, Any]] = []
        for text, part, of in ((TRAIN, "train", ""), (HELD_OUT, given.split, "_held_out")):
            edits = np.concatenate(list(self._edits(model, dataset, part, given)))
            exact, approximate = (edits == 0).mean(), (edits <= self.config.within * self.config.continuation).mean()
            values |= {f"memorized_exact{of}": float(exact), f"memorized_approximate{of}": float(approximate)}
            table += _rows(text, edits, self.config.continuation, float(exact), float(approximate))
        return Findings(values, table)

    def _edits(self, model, dataset, part, given):
        """Yields the edits between what the model writes and what the document says, (B,) per batch."""
        for rows in long_texts.documents(dataset, part, self.config.rows, self._tokens, given):
            prompt_BT, said_BT = rows.tokens_BT.split([1 + self.config.prefix, self.config.continuation], 1)
            written_BT = generate(model, prompt_BT, self.config.continuation, temperature=0.0)
            yield edit_distances(written_BT.cpu().numpy(), said_BT.cpu().numpy())


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
