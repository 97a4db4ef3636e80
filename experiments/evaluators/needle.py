"""A fact planted in real text at a depth: whether the model finds it when it is asked for at the end.

Shapes: B rows, T tokens, N scored positions, n of them in one row.
"""

from collections import defaultdict
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.kernels.cross_entropy import predictions
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Fraction, List, Spec
from experiments import long_texts
from experiments.data import needles
from experiments.data.needles import LEAST_TEXT, Needles, Template
from experiments.long_texts import Lengths

TIMES = (0.5, 1, 2)
DEFAULT = " (by default, the first length is half of the training context)"
SEED = 20
# The depth under which a row without its needle is counted.
WITHOUT = -1.0


def _distinct(depths):
    if len(set(depths)) < len(depths):
        raise ValueError(f"expected different depths, got {list(depths)}")
    return depths


def _grid(value: str, title: str, label: str, bounds: dict[str, tuple[float, ...]]) -> Chart:
    labels = {"length": "tokens", "depth": "depth of the needle", value: label}
    return Chart(kind="grid", x="length", y="depth", value=value, title=title, labels=labels, bounds=bounds)


@evaluator
class Needle:
    """Needle in a haystack: a sentence with a random key and value in real text, asked for at the end; a grid of length x depth.

    The answer is teacher-forced: each of its tokens is scored after the right ones before it. Metrics, over all lengths and
    depths: `needle_accuracy`, the share of answer tokens that are the likeliest, and `needle_nats` per answer token; and
    both of the same rows without the needle (`_without`), which is what the model does without having read the answer.
    Every row of the grid has the same documents, keys and values.
    """

    class Config(Spec):
        """lengths: in tokens, question and answer included; by default half, once and twice the training context.

        depths: where the needle stands, 0 at the beginning and 1 right before the question. rows: documents of the split with
        as many tokens as the longest length. template: the sentence, with {key} and {value}; the question is its beginning.
        """

        lengths: Lengths | None = None
        depths: Annotated[List[Fraction], Field(min_length=1), AfterValidator(_distinct)] = (0.0, 0.25, 0.5, 0.75, 1.0)
        rows: Count = 16
        template: Template = needles.TEMPLATE

    needs = frozenset({"causal", "text"})
    metrics = {
        "needle_accuracy": Metric(unit="of answer tokens", better="higher"),
        "needle_nats": Metric(unit="nats per answer token", compare="log", exponential="perplexity"),
        "needle_accuracy_without": Metric(unit="of answer tokens", better="neither"),
        "needle_nats_without": Metric(unit="nats per answer token", better="neither", compare="log", exponential="perplexity"),
    }
    charts = (
        _grid("accuracy", "needle: share of the answer's tokens found", "accuracy", {"accuracy": (0.0, 1.0)}),
        _grid("nats", "needle: loss of the answer", "nats per answer token", {}),
    )

    def __init__(self, config: Config):
        self.config = config

    def _lengths(self, context):
        return self.config.lengths or long_texts.multiples(context, TIMES)

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError for a length without documents or without room, and a needle that the tokenizer cannot write."""
        lengths = self._lengths(0 if self.config.lengths else long_texts.context_of(dataset))
        long_texts.check(dataset, split, max(lengths), "lengths")
        try:
            drawn = self._drawn(dataset, split)
        except SpecError as error:
            raise SpecError(error.reason, ("template",)) from None
        longest = max(each.tokens for each in drawn)
        if min(lengths) < (least := 1 + longest + LEAST_TEXT):
            reason = f"{min(lengths):,} tokens cannot hold a needle and its question, which take {longest}, and some text"
            raise SpecError(f"{reason}; expected at least {least}{'' if self.config.lengths else DEFAULT}", ("lengths",))

    def _drawn(self, dataset, split):
        """The needle of each row: the same at every length and depth."""
        drawing = Needles(self.config.template, dataset.tokenizer)
        return [drawing.draw(split, np.random.default_rng([SEED, row])) for row in range(self.config.rows)]

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The accuracy and the nats of the answers at each length and depth, with and without the needle."""
        lengths, depths = self._lengths(given.context), (WITHOUT, *self.config.depths)
        drawn, done = self._drawn(dataset, given.split), 0
        counted: dict[tuple[int, float], np.ndarray] = defaultdict(lambda: np.zeros(5))
        for rows in long_texts.documents(dataset, given.split, self.config.rows, max(lengths), given):
            text_BT = rows.tokens_BT.cpu().numpy()
            asked = drawn[done : done + len(text_BT)]
            done += len(text_BT)
            for length in lengths:
                for depth in depths:
                    tokens_BT = np.stack([_row(*each, depth, length) for each in zip(asked, text_BT, strict=True)])
                    answers = [len(each.answer) for each in asked]
                    counted[length, depth] += _answered(model, torch.from_numpy(tokens_BT).to(given.device), answers)
        return Findings(_values(counted), [_cell(counted, length, depth) for length in lengths for depth in depths[1:]])


def _row(needle, text_T, depth, length):
    planted = None if depth == WITHOUT else needle
    return needles.row(planted, needle, text_T[1:], int(text_T[0]), max(depth, 0.0), length)[0]


def _answered(model, tokens_BT, answers):
    """(5,): nats, answer tokens that are the likeliest, answer tokens, rows whose whole answer is the likeliest, rows.

    answers: the number of answer tokens at the end of each row.
    """
    tokens = tokens_BT.shape[1]
    hidden_BTD, _ = model.trunk(tokens_BT)
    hidden_ND = torch.cat([hidden_TD[tokens - 1 - n : tokens - 1] for hidden_TD, n in zip(hidden_BTD, answers, strict=True)])
    target_N = torch.cat([tokens_T[tokens - n :] for tokens_T, n in zip(tokens_BT, answers, strict=True)])
    nats_N, right_N = predictions(hidden_ND, model.head_weight, target_N, model.spec.logit_softcap)
    whole = sum(bool(right_n.all()) for right_n in right_N.split(answers))
    return np.array([float(nats_N.double().sum()), int(right_N.sum()), len(target_N), whole, len(answers)])


def _values(counted):
    """The metrics over all cells."""
    values: dict[str, float] = {}
    for suffix, bare in (("", False), ("_without", True)):
        nats, right, tokens, _, _ = sum(count for (_, depth), count in counted.items() if (depth == WITHOUT) == bare).tolist()
        values |= {f"needle_accuracy{suffix}": right / tokens, f"needle_nats{suffix}": nats / tokens}
    return values


def _cell(counted, length, depth) -> dict[str, Any]:
    """A plain row of the table. found: the share of rows whose whole answer is the likeliest, token by token."""
    nats, right, tokens, whole, rows = counted[length, depth].tolist()
    bare_nats, bare_right, bare_tokens, _, _ = counted[length, WITHOUT].tolist()
    return {
        "length": length,
        "depth": depth,
        "accuracy": right / tokens,
        "found": whole / rows,
        "nats": nats / tokens,
        "accuracy_without": bare_right / bare_tokens,
        "nats_without": bare_nats / bare_tokens,
        "rows": int(rows),
    }
