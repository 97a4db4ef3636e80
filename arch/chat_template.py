"""Chat templates as text: what stands around that which is said.

A template is a name of TEMPLATES, a text with {prompt} and {answer}, or a folder or file with a Jinja template, as Hugging Face's
folders and those of our runs have one. Gemma's turns have two roles, `user` and `model`, and no role for a system prompt: its
text stands in front of the first prompt, with an empty line between. A pretrained model ends a text with `<eos>`; Gemma 3's
tuned models end with `<end_of_turn>`, Gemma 2's with both (Gemma 2, tables 4 and 5; Gemma 3, table 4).
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from arch.checkpoint import CHAT_TEMPLATE, TOKENIZER_CONFIG
from arch.errors import DataError

KEY = "chat_template"  # in a tokenizer's config
START_OF_TURN, END_OF_TURN, EOS = "<start_of_turn>", "<end_of_turn>", "<eos>"
TURNS = (START_OF_TURN, END_OF_TURN)
PROMPT, ANSWER = "{prompt}", "{answer}"
_TURNS = f"{START_OF_TURN}user\n{PROMPT}{END_OF_TURN}\n{START_OF_TURN}model\n{ANSWER}{END_OF_TURN}"
# `plain` is the form in which a pretrained model reads text: no turns, and `<eos>` at the end.
TEMPLATES = {"gemma3": _TURNS, "gemma2": f"{_TURNS}{EOS}", "plain": f"{PROMPT}\n{ANSWER}{EOS}"}
# A character of no script for each place where something is said; a text that a template is written with has none.
PLACE = 0xF0000
SPACE = "\x0b"  # white space that no template writes itself
ENDING = ".jinja"
KEY_OF_SPEC = ("data", "source", "template")


def _check(template: str) -> str:
    if template in TEMPLATES or is_jinja(template):
        return template
    if PROMPT not in template and ANSWER not in template and _is_path(template):
        try:
            return read(template)
        except DataError as error:
            raise ValueError(str(error)) from None
    if template.count(PROMPT) != 1 or template.count(ANSWER) != 1 or template.index(PROMPT) > template.index(ANSWER):
        known = ", ".join(TEMPLATES)
        raise ValueError(
            f"expected {known}, a text with one {PROMPT} and, after it, one {ANSWER}, or a folder with a chat template"
        )
    if template.endswith(ANSWER):
        raise ValueError(f"nothing ends the answer: expected {END_OF_TURN} or {EOS} behind {ANSWER}, got {template!r}")
    return template


def _is_path(text):
    try:
        return "/" in text or text.endswith(ENDING) or Path(text).exists()
    except (OSError, ValueError):  # too long for a name, say
        return False


def is_jinja(text: str) -> bool:
    """Whether a template is in Jinja, and no name, no text with {prompt} and no path."""
    return "{%" in text or "{{" in text


# A template in a spec: one by its name, a text, or the path of a folder or file, in whose place stands what it holds.
Template = Annotated[str, AfterValidator(_check)]


class Frame(NamedTuple):
    """literals: the template's text before, between and behind the places where something is said. trims: of each place, whether
    white space is cut off on the left and on the right of what is said there."""

    literals: tuple[str, ...]
    trims: tuple[tuple[bool, bool], ...]

    def trimmed(self, place: int, text: str) -> str:
        """A text as it stands at a place."""
        left, right = self.trims[place]
        text = text.lstrip() if left else text
        return text.rstrip() if right else text

    def filled(self, said: Sequence[str]) -> str:
        """The whole conversation as text."""
        parts = (
            self.trimmed(place, text) + literal for place, (text, literal) in enumerate(zip(said, self.literals[1:], strict=True))
        )
        return self.literals[0] + "".join(parts)


@cache
def frame(template: str, turns: int, system: bool, bos: str, eos: str) -> Frame:
    """What a template writes around so many prompts with their answers, the last answer too; a system prompt is said first.

    bos, eos: the names of the tokens that begin and end a text; "" for none. Raises DataError for Jinja that fails, or leaves
    something out.
    """
    if is_jinja(template):
        return _of_jinja(template, turns, system, bos, eos)
    return _of_text(TEMPLATES.get(template, template), turns, system, bos, eos)


def _of_text(text, turns, system, bos, eos):
    before, middle, after = re.split("|".join(map(re.escape, (PROMPT, ANSWER))), text)
    again = f"{after.replace(EOS, '')}\n{before}"  # `<eos>` ends a text: the turns of one have none between
    literals = [bos + before, *(["\n\n"] if system else []), *[middle, again] * (turns - 1), middle, after]
    trims = ((False, False),) * (len(literals) - 1)
    return Frame(tuple(literal.replace(EOS, eos) if eos else literal for literal in literals), trims)


def _of_jinja(template, turns, system, bos, eos):
    roles = roles_of(turns, system)
    places = [chr(PLACE + number) for number in range(len(roles))]
    known = {*places}
    text = rendered(template, turns, system, places, bos, eos)
    written = [each for each in text if each in known]
    counted = Counter(written)
    for role, place in zip(roles, places, strict=True):
        if counted[place] != 1:
            raise refused(f"writes what the role {role} says {counted[place]} times; expected once")
    if written != places:
        raise refused(f"writes {', '.join(roles)} in another order")
    padded = rendered(template, turns, system, [SPACE + place + SPACE for place in places], bos, eos)
    trims = tuple((SPACE + place not in padded, place + SPACE not in padded) for place in places)
    return Frame(tuple(re.split(f"[{places[0]}-{places[-1]}]", text)), trims)


def roles_of(turns: int, system: bool) -> list[str]:
    """Who speaks in a conversation of so many prompts with their answers, in order."""
    return [*(["system"] if system else []), *["user", "assistant"] * turns]


def rendered(template: str, turns: int, system: bool, said: Sequence[str], bos: str, eos: str) -> str:
    """A conversation in a template in Jinja, with the settings that transformers renders it with. Raises DataError."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    roles = roles_of(turns, system)

    def refuse(reason="it gives no reason", *_):
        raise refused(f"refuses the roles {', '.join(dict.fromkeys(roles))}: {' '.join(str(reason).split())}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    try:
        return environment.from_string(template).render(
            messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=False
        )
    except DataError:
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        raise refused(f"cannot be rendered: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def refused(reason: str) -> DataError:
    """An error in a template, at its key."""
    return DataError(f"the chat template {reason}", KEY_OF_SPEC)


def jinja(template: str) -> str:
    """A template as Jinja, for `chat_template.jinja`: transformers writes by it what `frame` says."""
    if is_jinja(template):
        return template
    before, middle, after = re.split("|".join(map(re.escape, (PROMPT, ANSWER))), TEMPLATES.get(template, template))
    between = f"{after.replace(EOS, '')}\n"
    first = "(system if loop.index0 == (1 if messages[0]['role'] == 'system' else 0) else '')"
    given = "messages[0]['role'] == 'system' and messages[0]['content']"
    return (
        f"{{{{ bos_token }}}}{{% set system = messages[0]['content'] ~ '\\n\\n' if {given} else '' %}}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {_said(before)} ~ {first} ~ message['content'] ~ {_said(middle)} }}}}"
        "{% elif message['role'] != 'system' %}"
        f"{{{{ message['content'] ~ ({_said(after)} if loop.last else {_said(between)}) }}}}"
        "{% endif %}{% endfor %}"
    )


def _said(text):
    """A text as an expression of Jinja."""
    return "(" + " ~ eos_token ~ ".join(json.dumps(part, ensure_ascii=False) for part in text.split(EOS)) + ")"


def read(path: str | Path) -> str:
    """The Jinja template in a file, or in a folder: of its `chat_template.jinja`, or of its `tokenizer_config.json`.

    Of several in a folder, the one that is called default. Raises DataError.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file; expected one with a chat template", KEY_OF_SPEC)
    found = _text(path) if path.is_file() else find(path)
    if found is None:
        raise DataError(f"{path}: no chat template in it: expected {CHAT_TEMPLATE}, or {KEY} in {TOKENIZER_CONFIG}", KEY_OF_SPEC)
    if not is_jinja(found):
        raise DataError(f"{path}: a chat template that writes nothing of what is said; expected Jinja", KEY_OF_SPEC)
    return found


def find(folder: Path) -> str | None:
    """The template in a folder, if there is one. Raises DataError where its files cannot be read."""
    if (folder / CHAT_TEMPLATE).is_file():
        return _text(folder / CHAT_TEMPLATE)
    path = folder / TOKENIZER_CONFIG
    if not path.is_file():
        return None
    text = _text(path)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})", KEY_OF_SPEC) from None
    found = said.get(KEY) if isinstance(said, dict) else None
    if isinstance(found, list):
        found = next((each.get("template") for each in found if isinstance(each, dict) and each.get("name") == "default"), None)
    return _valid(found, path) if isinstance(found, str) else None


def _text(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})", KEY_OF_SPEC) from None


def _valid(text, path):
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: its {KEY} is not valid Unicode text", KEY_OF_SPEC) from None
    return text
