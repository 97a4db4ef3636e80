"""Chat templates: what stands around a prompt and an answer, in the tokens of a tokenizer.

Gemma's turns have two roles, `user` and `model`, and no role for a system prompt: its text stands in front of the first
prompt, with an empty line between. The ids of `<start_of_turn>` and `<end_of_turn>` are 106 and 107 in Gemma 2's tokenizer, 105 and
106 in Gemma 3's; here they are whatever the tokenizer says. A pretrained model ends a text with `<eos>`; Gemma 3's tuned models
end with `<end_of_turn>`, Gemma 2's with both (Gemma 2, tables 4 and 5; Gemma 3, table 4).
"""

import re
from dataclasses import dataclass
from typing import Annotated

import tokenizers
from pydantic import AfterValidator

from arch.errors import DataError
from arch.tokenizer import Ends

START_OF_TURN, END_OF_TURN, EOS = "<start_of_turn>", "<end_of_turn>", "<eos>"
TURNS = (START_OF_TURN, END_OF_TURN)
PROMPT, ANSWER = "{prompt}", "{answer}"
_TURNS = f"{START_OF_TURN}user\n{PROMPT}{END_OF_TURN}\n{START_OF_TURN}model\n{ANSWER}{END_OF_TURN}"
# `plain` is the form in which a pretrained model reads text: no turns, and `<eos>` at the end.
TEMPLATES = {"gemma3": _TURNS, "gemma2": f"{_TURNS}{EOS}", "plain": f"{PROMPT}\n{ANSWER}{EOS}"}
SPECIAL = re.compile("|".join(map(re.escape, (*TURNS, EOS))))


def _check(template: str) -> str:
    if template in TEMPLATES:
        return template
    if template.count(PROMPT) != 1 or template.count(ANSWER) != 1 or template.index(PROMPT) > template.index(ANSWER):
        known = ", ".join(TEMPLATES)
        raise ValueError(f"expected {known}, or a text with one {PROMPT} and, after it, one {ANSWER}; got {template!r}")
    if not SPECIAL.match(template[template.index(ANSWER) + len(ANSWER) :]):
        raise ValueError(f"nothing ends the answer: expected {END_OF_TURN} or {EOS} behind {ANSWER}, got {template!r}")
    return template


# A template in a spec: one by its name, or a text.
Template = Annotated[str, AfterValidator(_check)]


def written(template: str) -> str:
    """A template as text."""
    return TEMPLATES.get(template, template)


@dataclass(frozen=True)
class Chat:
    """A template in the tokens of a tokenizer.

    A name of a special token in a prompt or an answer is text, as in training data: nobody can end a turn by writing so. That needs
    a tokenizer whose `encode_special_tokens` is set (`experiments.data.specials.load`).
    """

    tokenizer: tokenizers.Tokenizer
    ends: Ends
    template: str

    def __post_init__(self):
        """Raises DataError at `data.tokenizer` for a tokenizer without the template's turns."""
        for token in SPECIAL.findall(written(self.template)):
            if self._number(token) is None:
                reason = f"the tokenizer has no {token}, which the template {self.template!r} is written with"
                raise DataError(f"{reason}; expected one that has it, or another `template`", key=("data", "tokenizer"))

    def prompt(self, text: str, system: str = "") -> list[int]:
        """The ids before an answer: `<bos>` if the tokenizer has one, and all that the template has in front of the answer."""
        before, after = written(self.template).split(ANSWER)[0].split(PROMPT)
        asked = f"{system}\n\n{text}" if system else text
        begin = [] if self.ends.bos is None else [self.ends.bos]
        *specials, last = _pieces(before)
        (first, token), *rest = _pieces(after)
        return [*begin, *self._ids(specials), *self._ids([(last[0] + asked + first, token), *rest])]

    def answer(self, text: str) -> list[int]:
        """The ids of an answer with what ends it; encoded alone, as a model writes it."""
        return [*self._text(text), *self.tail]

    @property
    def tail(self) -> list[int]:
        """The ids behind an answer."""
        return self._ids(_pieces(written(self.template).split(ANSWER)[1]))

    @property
    def stops(self) -> frozenset[int]:
        """The ids that end an answer while it is written: the first one behind it, and the end of a text."""
        return frozenset(number for number in (self.tail[0], self.ends.eos) if number is not None)

    def said(self, ids: list[int]) -> str:
        """The text of an answer's ids, up to the one that ends it."""
        stops = self.stops
        stop = next((i for i, number in enumerate(ids) if number in stops), len(ids))
        return self.tokenizer.decode(ids[:stop], skip_special_tokens=True)

    def _ids(self, pieces):
        return [number for text, token in pieces for number in ([*self._text(text)] + ([self._number(token)] if token else []))]

    def _text(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []

    def _number(self, token):
        return self.ends.eos if token == EOS else self.tokenizer.token_to_id(token)


def _pieces(text):
    """[(text, the special token behind it)]; the last one has no token. Never empty."""
    tokens = SPECIAL.findall(text)
    return list(zip(SPECIAL.split(text), [*tokens, ""], strict=True))
