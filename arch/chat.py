"""A chat template in the tokens of a tokenizer: the ids of a conversation, and where its last answer begins.

The ids of `<start_of_turn>` and `<end_of_turn>` are 106 and 107 in Gemma 2's tokenizer, 105 and 106 in Gemma 3's; here they are
whatever the tokenizer says.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import tokenizers

from arch import chat_template
from arch.chat_template import EOS, TURNS, Frame
from arch.errors import DataError
from arch.tokenizer import Ends

# What was said before in a conversation: (prompt, answer), in order.
Before = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chat:
    """A template in the tokens of a tokenizer. template: as `chat_template.Template` leaves it, so no path.

    A name of a special token in a prompt or an answer is text, as in training data: nobody can end a turn by writing so. That needs
    a tokenizer whose `encode_special_tokens` is set (`experiments.data.specials.load`).
    """

    tokenizer: tokenizers.Tokenizer
    ends: Ends
    template: str

    def __post_init__(self):
        """Raises DataError for a tokenizer without the template's turns, and a template in which nothing ends an answer."""
        if not self._special.search(self._last):
            raise chat_template.refused("lets nothing end the answer; expected a special token of the tokenizer behind it")
        self._ids([(literal, True) for literal in self._frame(1, system=False).literals])

    def prompt(self, text: str, system: str = "", before: Before = ()) -> list[int]:
        """The ids before an answer: all that the template has in front of it. before: what was said earlier.

        An earlier answer has the ids that it had when it was written.
        """
        first, *around = self._around(text, system, before)
        ids: list[int] = []
        pieces = [first]
        for number, (said, literal) in enumerate(zip(around[::2], around[1::2], strict=True)):
            if (number - bool(system)) % 2 == 1:  # an answer
                ids += [*self._ids(pieces), *self._text(said[0])]
                pieces = [literal]
            else:
                pieces += [said, literal]
        return ids + self._ids(pieces)

    def written(self, text: str, system: str = "") -> str:
        """The text before an answer, with the names of its special tokens."""
        return "".join(piece for piece, _ in self._around(text, system))

    def answer(self, text: str) -> list[int]:
        """The ids of an answer with what ends it; encoded alone, as a model writes it."""
        return [*self._text(self._frame(1, system=False).trimmed(-1, text)), *self.tail]

    @cached_property
    def tail(self) -> list[int]:
        """The ids behind an answer, up to the last special one: what follows belongs to the next turn."""
        last = self._last
        end = max((match.end() for match in self._special.finditer(last)), default=0)
        return self._ids([(last[:end], True)])

    @property
    def stops(self) -> frozenset[int]:
        """The ids that end an answer while it is written: the first special one behind it, and the end of a text."""
        first = self._special.search(self._last)
        assert first is not None  # see `__post_init__`
        return frozenset(number for number in (self._number(first.group()), self.ends.eos) if number is not None)

    @property
    def highest(self) -> int:
        """The highest id of a special token that the template writes."""
        frames = [self._frame(1, system=False)]
        with suppress(DataError):  # a template may take one turn alone
            frames.append(self._frame(2, system=False))
        return max(self._number(token) for each in frames for literal in each.literals for token in self._special.findall(literal))

    def check(self, text: str, answer: str, system: str = "", before: Before = ()) -> None:
        """Raises DataError for a template in Jinja that writes a conversation otherwise than `prompt` and `answer` have it."""
        if not chat_template.is_jinja(self.template):
            return
        frame = self._frame(len(before) + 1, bool(system))
        said = [*self._said(text, system, before), answer]
        names = self._name(self.ends.bos), self._name(self.ends.eos)
        if frame.filled(said) != chat_template.rendered(self.template, len(before) + 1, bool(system), said, *names):
            raise chat_template.refused(f"changes what is said, or what stands around it by what is said, at {text[:40]!r}")

    def said(self, ids: list[int]) -> str:
        """The text of an answer's ids, up to the one that ends it."""
        stops = self.stops
        stop = next((i for i, number in enumerate(ids) if number in stops), len(ids))
        return self.tokenizer.decode(ids[:stop], skip_special_tokens=True)

    def check_system(self) -> None:
        """Raises DataError for a template that has no place for a system prompt."""
        self._frame(1, system=True)

    def _around(self, text, system="", before=()):
        """[(piece of text, whether it is the template's)] before an answer: in turn, first and last the template's."""
        frame = self._frame(len(before) + 1, bool(system))
        parts = [frame.trimmed(place, each) for place, each in enumerate(self._said(text, system, before))]
        others = [((part, False), (literal, True)) for part, literal in zip(parts, frame.literals[1:-1], strict=True)]
        return [(frame.literals[0], True), *(piece for pair in others for piece in pair)]

    @staticmethod
    def _said(text, system, before):
        return [*([system] if system else []), *(each for turn in before for each in turn), text]

    def _frame(self, turns: int, system: bool) -> Frame:
        return chat_template.frame(self.template, turns, system, self._name(self.ends.bos), self._name(self.ends.eos))

    def _name(self, number):
        return "" if number is None else self.tokenizer.id_to_token(number) or ""

    @property
    def _last(self):
        return self._frame(1, system=False).literals[-1]

    @cached_property
    def _named(self) -> dict[str, int | None]:
        """{name of a token that a template may be written with: its id}."""
        added = {each.content: number for number, each in self.tokenizer.get_added_tokens_decoder().items() if each.special}
        named = {name: self.tokenizer.token_to_id(name) for name in TURNS}
        ends = {self._name(number): number for number in (self.ends.bos, self.ends.eos) if number is not None}
        return {EOS: self.ends.eos} | added | named | ends

    @cached_property
    def _special(self):
        return re.compile("|".join(map(re.escape, sorted(self._named, key=len, reverse=True))))

    def _ids(self, pieces):
        """The ids of pieces of text, (text, whether it is the template's): in the template's, names of tokens are tokens."""
        ids: list[int] = []
        text = ""
        for piece, written in pieces:
            if not written:
                text += piece
                continue
            start = 0
            for match in self._special.finditer(piece):
                ids += [*self._text(text + piece[start : match.start()]), self._number(match.group())]
                text, start = "", match.end()
            text += piece[start:]
        return ids + self._text(text)

    def _number(self, token):
        number = self._named[token]
        if number is None:
            called = "the chat template" if chat_template.is_jinja(self.template) else f"the template {self.template!r}"
            reason = f"the tokenizer has no {token}, which {called} is written with"
            raise DataError(f"{reason}; expected one that has it, or another `template`", key=("data", "tokenizer"))
        return number

    def _text(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
