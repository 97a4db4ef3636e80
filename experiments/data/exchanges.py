"""The dataset of a source of prompts and answers: a row is one exchange in its template, padded on the right.

Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from arch import chat_template
from arch.chat import Chat
from arch.chat_template import TURNS
from arch.errors import DataError
from arch.layout import TokenLayout
from arch.plugins import plugin_sources
from arch.spec import digest
from experiments.data import learned, left_out
from experiments.data.batch import Batch, Rows
from experiments.data.draws import mixed, share
from experiments.data.exchange import Exchange, ExchangeOptions, Task
from experiments.data.generated import place
from experiments.data.left_out import LeftOut
from experiments.data.specials import PAD
from experiments.data.split import FRACTIONS, SPLITS
from experiments.spec import DataSpec

# Increase this when the same options give other rows.
FORMAT = 1
LEARNED = ("byte", "bpe", "character")
ANY = 2**62  # `learned.learn` need not check the vocabulary: `experiments.data.dataset` does


def prepare(task: Task, source: str, config: ExchangeOptions, data: DataSpec) -> Exchanges:
    """The dataset of a source's task, in the tokens of the data section's tokenizer. Raises DataError.

    A tokenizer that is learned gets the tokens of the turns behind all others; one that is read from a file must have them.
    """
    dataset = opened(task, source, config, data)
    dataset.check(data.context)
    return dataset


def opened(task: Task, source: str, config: ExchangeOptions, data: DataSpec) -> Exchanges:
    """The same, without a look at how long its rows are."""
    assert data.tokenizer is not None  # `tokenizes = True`
    made = learned.learn(data.tokenizer, task.learned_from(), ANY, Console(stderr=True))
    if data.tokenizer["type"] in LEARNED:  # whatever the template is, so that models of several templates have the same tokens
        made.tokenizer.add_special_tokens([token for token in TURNS if made.tokenizer.token_to_id(token) is None])
        made.tokenizer.encode_special_tokens = True
    chat = Chat(made.tokenizer, made.ends, config.template)
    numbers = [made.tokenizer.token_to_id(token) for token in TURNS]
    vocabulary = max(made.vocabulary, *(number + 1 for number in (*numbers, chat.highest) if number is not None))
    if config.system:
        chat.check_system()
    return Exchanges(task, source, config, chat, vocabulary, data)


class Exchanges:
    """The Dataset. Beside its batches it has the texts of its rows, which rewards and evaluators read.

    Each row has `extra["start"]`, the tokens of its prompt with the template, and `extra["split"]`, the number of its split in
    SPLITS; with `key_B` they say which exchange it is. Every token behind the first is a target; `sft` scores those of the answer.
    """

    def __init__(self, task: Task, source: str, config: ExchangeOptions, chat: Chat, vocabulary: int, data: DataSpec):
        self.task, self.source, self.config, self.chat, self.vocabulary = task, source, config, chat, vocabulary
        self.tokenizer, self.ends, self.spec = chat.tokenizer, chat.ends, data
        # A template may begin with the prompt, and a tokenizer have nothing that begins a text.
        first = chat.prompt("", config.system) or self.ids(task.longest()[0])[0]
        self.begin = self.ends.bos if self.ends.bos is not None else first[0]
        pad = self.tokenizer.token_to_id(PAD)
        self.pad = 0 if pad is None else pad

    @cached_property
    def fingerprint(self) -> str:
        """A digest (hex) of the source, every option, the tokenizer and the rule of the splits."""
        return digest(self._content | {"options": self.config.dump()})

    @property
    def _content(self) -> dict[str, Any]:
        about: dict[str, str] = getattr(self.task, "content", dict)()
        content = {"format": FORMAT, "source": self.source, "fractions": FRACTIONS, "tokenizer": self.tokenizer.to_str()}
        return content | {"task": about, "plugins": plugin_sources(self.spec.source)}

    @cached_property
    def prompt_tokens(self) -> int:
        """The tokens of the longest prompt, with the template."""
        return max(len(self.ids(each)[0]) for each in self.task.longest())

    def check(self, context: int) -> None:
        """Raises DataError where a row of `context` tokens cannot hold an exchange, a template changes it, or a split has none."""
        for each in self.task.longest():
            self.chat.check(each.prompt, each.answer, self.system(each), each.before)
        longest = max(sum(map(len, self.ids(each))) for each in self.task.longest())
        if longest - 1 > context:
            raise DataError(
                f"{context:,} tokens cannot hold a prompt with its answer, which take {longest - 1:,}", ("data", "context")
            )
        for split in SPLITS:
            self.task.exchange(split, 0)

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The rows of step `step` (from 0), which no other step and no other seed reads."""
        return self.numbered(split, place(seed) + step * rows + np.arange(rows), context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` rows, always the same ones; all of the split where it has fewer."""
        count = self.task.count(split)
        rows = rows if count is None else min(rows, count)
        for first in range(0, rows, batch_rows):
            yield self.numbered(split, np.arange(first, min(rows, first + batch_rows)), context)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> NDArray[np.int64]:
        """The numbers of all rows that `steps` steps read, ascending: (N,)."""
        return place(seed) + np.arange(steps * rows)

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """The rows with these numbers. Raises DataError where one is longer than `context` tokens."""
        number_B = np.asarray(numbers, dtype=np.int64)
        made = [self.ids(self.exchange(split, int(number))) for number in number_B]
        full_BT = torch.full((len(made), context + 1), self.pad, dtype=torch.long)
        for row_T, (prompt, answer) in zip(full_BT, made, strict=True):
            if len(prompt) + len(answer) > context + 1:
                raise DataError(f"{context:,} tokens cannot hold an exchange of {len(prompt) + len(answer):,}", ("data", "context"))
            row_T[: len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        start_B, length_B = (
            torch.tensor(each, dtype=torch.long) for each in ([len(p) for p, _ in made], [len(p + a) for p, a in made])
        )
        extra = {"start": start_B, "split": torch.full_like(start_B, SPLITS.index(split))}
        return Batch.text(laid(full_BT, length_B, torch.from_numpy(number_B), extra))

    def exchange(self, split: str, number: int) -> Exchange:
        """The exchange of a row. Of a split with an end, training draws one for each number, and an evaluation reads each once."""
        count = self.task.count(split)
        if count is not None and number >= count:
            number = int(share(mixed(np.array([number], dtype=np.uint64)))[0] * count)
        return self.task.exchange(split, number)

    def exchanges(self, rows: Rows) -> list[Exchange]:
        """The exchange of each of these rows."""
        assert rows.key_B is not None
        pairs = zip(rows.extra["split"].tolist(), rows.key_B.tolist(), strict=True)
        return [self.exchange(SPLITS[split], number) for split, number in pairs]

    def ids(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        """The tokens of an exchange: up to its answer, and of the answer."""
        return self.chat.prompt(exchange.prompt, self.system(exchange), exchange.before), self.chat.answer(exchange.answer)

    def system(self, exchange: Exchange) -> str:
        """The system prompt of an exchange: its own, if it says one or that there is none, else the source's."""
        return self.config.system if exchange.system is None else exchange.system

    @property
    def chat_template(self) -> str:
        """The template in Jinja, which is kept beside the weights."""
        return chat_template.jinja(self.chat.template)

    @property
    def notes(self) -> list[str]:
        """Sentences about what the source leaves out."""
        return left_out.sentences(self._left_out())

    def _left_out(self) -> dict[str, Any]:
        out: LeftOut = getattr(self.task, "left_out", LeftOut())
        return out.summary()

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record. asked: a digest of the prompts and answers, whatever template they are in."""
        asked = digest(self._content | {"options": self.config.model_copy(update={"template": ""}).dump()})
        about = {"fingerprint": self.fingerprint, "asked": asked}
        about |= {"source": self.source, "vocabulary": self.vocabulary, "splits": {}}
        counts = {split: self.task.count(split) for split in SPLITS}
        return about | ({} if None in counts.values() else {"exchanges": counts}) | self._left_out()


def laid(full_BT: torch.Tensor, length_B: torch.Tensor, key_B: torch.Tensor | None, extra: dict[str, torch.Tensor]) -> Rows:
    """Rows of the first `length_B` tokens each of full (B, T + 1), each token but the first the target of the one before."""
    tokens_BT, targets_BT = full_BT[:, :-1].contiguous(), full_BT[:, 1:].clone()
    place_T = torch.arange(tokens_BT.shape[1], device=full_BT.device)
    targets_BT[place_T >= length_B[:, None] - 1] = -1
    return Rows(tokens_BT, TokenLayout.right_padded(length_B - 1, tokens_BT.shape[1]), targets_BT, key_B, extra)


def answers_only(rows: Rows) -> Rows:
    """The same rows with the tokens of answers as their only targets."""
    assert rows.targets_BT is not None
    place_T = torch.arange(rows.targets_BT.shape[1], device=rows.targets_BT.device)
    targets_BT = rows.targets_BT.masked_fill(place_T < rows.extra["start"][:, None] - 1, -1)
    return replace(rows, targets_BT=targets_BT)
