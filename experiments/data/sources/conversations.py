"""Your own prompts and answers, or whole conversations, from JSON lines or Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from arch.errors import DataError, nearest
from arch.registry import source
from arch.spec import List, Spec
from experiments.data import exchanges, row_files
from experiments.data.exchange import Exchange, ExchangeOptions
from experiments.data.exchanges import Exchanges
from experiments.data.left_out import LeftOut
from experiments.data.pair_splits import FRACTIONS, shown, split_of_group
from experiments.data.sources.text import Text
from experiments.data.split import SPLITS
from experiments.data.text_rows import kind_of
from experiments.spec import DataSpec

COLUMNS = ("data", "source", "columns")
USER, MODEL, SYSTEM = ("user", "human"), ("assistant", "model", "gpt"), ("system", "developer")
LONG, AGAIN = "answers that a row cannot hold", "answers that came before"
EMPTY, UNANSWERED = "answers without text", "prompts without an answer"
Row = tuple[str, list[tuple[str, str]], str | None]


class Columns(Spec):
    """Which key holds what. A row has messages, or a prompt and its answer.

    messages: a list of {role, content}; roles are user, then assistant (or model) in turn, and maybe a system first. prompt,
    answer: two texts. system: a system prompt beside them.
    """

    messages: str = "messages"
    prompt: str = "prompt"
    answer: str = "answer"
    system: str = "system"


@source
class Conversations:
    """A conversation per line of a `.jsonl` file or per row of a `.parquet` file: `{"messages": [{"role", "content"}, ...]}`, or
    `{"prompt", "answer"}`, and maybe `system`.

    Each answer of a conversation is a row of its own: all that was said before is read, the answer is scored or written. Those
    that a row of `data.context` tokens cannot hold are left out and counted. Conversations that begin with the same prompt are
    in the same split.
    """

    class Config(ExchangeOptions):
        """files: paths, folders and globs (`**` matches subfolders), relative to the working folder.

        columns: which key holds what.
        """

        files: Annotated[List[str], Field(min_length=1)]
        columns: Columns = Columns()

    tokenizes = answers = True

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        self.listed = Text(Text.Config(files=config.files))

    def dataset(self, data: DataSpec) -> Exchanges:
        """Raises DataError for what the files hold, a split without an answer, and a tokenizer without the template's turns."""
        made = exchanges.opened(self, "conversations", self.config, data)
        for split, found in self.splits.items():
            fits: list[Exchange] = []
            long: Exchange | None = None
            for each in found:
                # What follows an answer that does not fit has it before it. A conversation of n turns has n rows of up to n turns.
                if long is None or not _follows(each, long):
                    long = None if sum(map(len, made.ids(each))) - 1 <= data.context else each
                if long is not None:
                    self.left_out.add(LONG, shown(each.prompt))
                else:
                    made.chat.check(each.prompt, each.answer, made.system(each), each.before)
                    fits.append(each)
            if not fits:
                why = f"{len(found):,} of them, all longer than data.context = {data.context:,} tokens" if found else "none"
                conversations = f"{self.conversations:,} conversation{'s' * (self.conversations != 1)}"
                raise DataError(f"the {split} split has no answer ({why}); the files have {conversations}")
            self.splits[split] = fits
        return made

    @cached_property
    def splits(self) -> dict[str, list[Exchange]]:
        """{split: its exchanges}, each once. Raises DataError, which names the file and the line."""
        found: dict[str, dict[Exchange, Exchange]] = {split: {} for split in SPLITS}
        self.left_out, self.conversations = LeftOut(), 0
        for name, turns, system in self._conversations():
            self.conversations += 1
            mine = found[split_of_group(turns[0][0].strip(), FRACTIONS)]
            plain = [(prompt.strip(), answer.strip()) for prompt, answer in turns]  # a template may cut white space off
            for number, (prompt, answer) in enumerate(turns):
                same = Exchange(*plain[number], tuple(plain[:number]), system)
                if same in mine or not answer.strip():
                    self.left_out.add(AGAIN if same in mine else EMPTY, name)
                else:
                    mine[same] = Exchange(prompt, answer, tuple(turns[:number]), system)
        return {split: list(each.values()) for split, each in found.items()}

    def content(self) -> dict[str, str]:
        """A digest of the exchanges: other files may have the same names."""
        return {"exchanges": hashlib.sha256(json.dumps(self.splits, ensure_ascii=False).encode()).hexdigest()}

    def exchange(self, split: str, number: int) -> Exchange:
        """One of the split's answers; the numbers go round."""
        return self.splits[split][number % len(self.splits[split])]

    def longest(self) -> list[Exchange]:
        """All of them: how many tokens a text has, its tokenizer says."""
        return [each for split in SPLITS for each in self.splits[split]]

    def learned_from(self) -> list[str]:
        """What is said in the train split, once for each answer."""
        return [f"{each.prompt}\n{each.answer}" for each in self.splits["train"]]

    def count(self, split: str) -> int:
        """How many answers the split has."""
        return len(self.splits[split])

    def files(self) -> list[Path]:
        """Every file that is read, each once. Raises DataError."""
        return row_files.files(self.listed)

    def _conversations(self) -> Iterator[Row]:
        """(name, [(prompt, answer)], system) of every row with an answer."""
        columns = self.config.columns
        keys = [columns.messages, columns.prompt, columns.answer, columns.system]
        for path in self.files():
            for name, row in row_files.rows(path, [], keys):
                turns, system, rest = _read(name, row, columns)
                if rest or not turns:
                    self.left_out.add(UNANSWERED, name)
                if turns:
                    yield name, turns, system


def _read(name, row, columns):
    """([(prompt, answer)], the system prompt, whether a prompt is left that has no answer) of a row. Raises DataError."""
    expected = f"expected {columns.messages!r}, or {columns.prompt!r} and {columns.answer!r}"
    if not isinstance(row, Mapping):
        raise DataError(f"{name}: {kind_of(row)}; expected an object, with {expected.removeprefix('expected ')}")
    messages, system = row.get(columns.messages), row.get(columns.system)
    system = None if system is None else _content(f"{name}: {columns.system}", system)
    if messages is None:
        for key in (columns.prompt, columns.answer):
            if key not in row:
                raise DataError(f"{name}: no key {key!r} (data.source.columns): {expected}{nearest(key, row)}", COLUMNS)
        prompt, answer = (_content(f"{name}: {key}", row[key]) for key in (columns.prompt, columns.answer))
        return [(prompt, answer)], system, False
    if not isinstance(messages, (list, tuple)):
        raise DataError(f"{name}: the value of {columns.messages!r} is {kind_of(messages)}; expected a list of messages")
    return _turns(name, messages, system)


def _turns(name, messages, system):
    said: list[str] = []
    for number, message in enumerate(messages):
        where = f"{name}: message {number + 1}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError(f"{where}: expected an object with the keys 'role' and 'content'")
        role, content = message["role"], _content(where, message["content"])
        if role in SYSTEM and number == 0:
            if system not in (None, content):
                raise DataError(f"{where}: another system prompt than the one beside the messages; expected one of them")
            system = content
            continue
        roles = (USER, MODEL)[len(said) % 2]
        if role not in roles:
            raise DataError(f"{where}: the role is {role!r}; expected {roles[0]!r} here: user and assistant take turns")
        said.append(content)
    return list(zip(said[::2], said[1::2], strict=False)), system, len(said) % 2 == 1


def _content(where, content):
    """A message's text; one in several parts is put together."""
    if isinstance(content, (list, tuple)):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
            raise DataError(f"{where}: a part that is no text; images and tools are not read here")
        texts = [part.get("text") for part in content]
        wrong = [text for text in texts if not isinstance(text, str)]
        content = wrong[0] if wrong else "".join(texts)
    if not isinstance(content, str):
        raise DataError(f"{where}: {kind_of(content)}; expected text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: not valid Unicode text: half of a pair of surrogates") from None
    return content


def _follows(exchange, earlier):
    """Whether an exchange is of the same conversation as an earlier one."""
    place = len(earlier.before)
    said = exchange.before[:place] == earlier.before and exchange.before[place : place + 1] == ((earlier.prompt, earlier.answer),)
    return said and exchange.system == earlier.system
