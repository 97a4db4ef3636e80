"""Chat templates as text: what stands around that which is said.

A template is a name of TEMPLATES, a text with {prompt} and {answer}, or a folder or file with a Jinja template, as Hugging Face's
folders and those of our runs have one. Gemma's turns have two roles, `user` and `model`, and no role for a system prompt: its
text stands in front of the first prompt, with an empty line between. A pretrained model ends a text with `<eos>`; Gemma 3's
tuned models end with `<end_of_turn>`, Gemma 2's with both (Gemma 2, tables 4 and 5; Gemma 3, table 4).
"""

import json
import re
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
KEY_OF_SPEC = ("data", "source", "template")


def _check(template: str) -> str:
    if template in TEMPLATES:
        return template
    if PROMPT not in template and ANSWER not in template and ("/" in template or Path(template).exists()):
        try:
            read(template)
        except DataError as error:
            raise ValueError(str(error)) from None
        return template
    if template.count(PROMPT) != 1 or template.count(ANSWER) != 1 or template.index(PROMPT) > template.index(ANSWER):
        known = ", ".join(TEMPLATES)
        expected = f"{known}, a text with one {PROMPT} and, after it, one {ANSWER}, or a folder with a chat template"
        raise ValueError(f"expected {expected}; got {template!r}")
    if template.endswith(ANSWER):
        raise ValueError(f"nothing ends the answer: expected {END_OF_TURN} or {EOS} behind {ANSWER}, got {template!r}")
    return template


# A template in a spec: one by its name, a text, or the path of a folder or file.
Template = Annotated[str, AfterValidator(_check)]


class Frame(NamedTuple):
    """literals: the template's text before, between and behind the places where something is said. trims: of each place, whether
    white space is cut off what is said there."""

    literals: tuple[str, ...]
    trims: tuple[bool, ...]


class Form(NamedTuple):
    """A template whose file is read. text: with {prompt} and {answer}, or in Jinja. called: as in the spec."""

    text: str
    in_jinja: bool
    called: str

    def frame(self, turns: int, system: bool, bos: str, eos: str) -> Frame:
        """What a template writes around so many prompts with their answers, the last answer too; a system prompt is said first.

        bos, eos: the names of the tokens that begin and end a text; "" for none. Raises DataError for a Jinja template that fails,
        or leaves something out.
        """
        return _of_jinja(self, turns, system, bos, eos) if self.in_jinja else _of_text(self.text, turns, system, bos, eos)


def form(template: str) -> Form:
    """The form of a template, as a spec has it. Raises DataError for a folder or file without one."""
    in_jinja = template not in TEMPLATES and PROMPT not in template
    return Form(read(template) if in_jinja else TEMPLATES.get(template, template), in_jinja, template)


@cache
def _of_text(text, turns, system, bos, eos):
    before, middle, after = re.split("|".join(map(re.escape, (PROMPT, ANSWER))), text)
    again = f"{after.replace(EOS, '')}\n{before}"  # `<eos>` ends a text: the turns of one have none between
    literals = [bos + before, *(["\n\n"] if system else []), *[middle, again] * (turns - 1), middle, after]
    return Frame(tuple(literal.replace(EOS, eos) if eos else literal for literal in literals), (False,) * (len(literals) - 1))


@cache
def _of_jinja(form, turns, system, bos, eos):
    source, called = form.text, form.called
    roles = [*(["system"] if system else []), *["user", "assistant"] * turns]
    places = [chr(PLACE + number) for number in range(len(roles))]
    text = _rendered(source, called, roles, places, bos, eos)
    for role, place in zip(roles, places, strict=True):
        if text.count(place) != 1:
            reason = f"the chat template writes what the role {role} says {text.count(place)} times; expected once"
            raise DataError(f"{called}: {reason}", KEY_OF_SPEC)
    if [each for each in text if each in places] != places:
        raise DataError(f"{called}: the chat template writes {', '.join(roles)} in another order", KEY_OF_SPEC)
    padded = _rendered(source, called, roles, [f" {place} " for place in places], bos, eos)
    trims = tuple(f" {place} " not in padded for place in places)
    return Frame(tuple(re.split(f"[{places[0]}-{places[-1]}]", text)), trims)


def _rendered(source, called, roles, said, bos, eos):
    """A Jinja template's text, with the settings that transformers renders it with."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason):
        raise DataError(f"{called}: the chat template refuses the roles {', '.join(dict.fromkeys(roles))}: {reason}", KEY_OF_SPEC)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    try:
        return environment.from_string(source).render(messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=False)
    except (jinja2.TemplateError, TypeError) as error:
        raise DataError(f"{called}: the chat template cannot be rendered: {error}", KEY_OF_SPEC) from None


def jinja(form: Form) -> str:
    """A template as Jinja, for `chat_template.jinja`: transformers writes by it what `Form.frame` says."""
    if form.in_jinja:
        return form.text
    before, middle, after = re.split("|".join(map(re.escape, (PROMPT, ANSWER))), form.text)
    between = f"{after.replace(EOS, '')}\n"
    first = "(system if loop.index0 == (1 if system else 0) else '')"
    return (
        "{{ bos_token }}{% set system = messages[0]['content'] ~ '\\n\\n' if messages[0]['role'] == 'system' else '' %}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {_said(before)} ~ {first} ~ message['content'] ~ {_said(middle)} }}}}"
        "{% elif message['role'] != 'system' %}"
        f"{{{{ message['content'] ~ ({_said(after)} if loop.last else {_said(between)}) }}}}"
        "{% endif %}{% endfor %}"
    )


def _said(text):
    """A text as an expression of Jinja."""
    return "(" + " ~ eos_token ~ ".join(json.dumps(part, ensure_ascii=False) for part in text.split(EOS)) + ")"


def has(folder: str | Path) -> bool:
    """Whether a folder has a chat template. Raises DataError where its files cannot be read."""
    return _found(Path(folder)) is not None


def read(path: str | Path) -> str:
    """The Jinja template in a file, or in a folder: of its `chat_template.jinja`, or of its `tokenizer_config.json`.

    Of several in a folder, the one that is called default. Raises DataError.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file; expected one with a chat template", KEY_OF_SPEC)
    found = _text(path) if path.is_file() else _found(path)
    if found is None:
        raise DataError(f"{path}: no chat template in it: expected {CHAT_TEMPLATE}, or {KEY} in {TOKENIZER_CONFIG}", KEY_OF_SPEC)
    return found


def _found(folder):
    """The template in a folder, or None."""
    if (folder / CHAT_TEMPLATE).is_file():
        return _text(folder / CHAT_TEMPLATE)
    if not (folder / TOKENIZER_CONFIG).is_file():
        return None
    try:
        said = json.loads(_text(folder / TOKENIZER_CONFIG))
    except ValueError as error:
        raise DataError(f"{folder / TOKENIZER_CONFIG}: not JSON ({error})", KEY_OF_SPEC) from None
    found = said.get(KEY) if isinstance(said, dict) else None
    if isinstance(found, list):
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}.get("default")
    return found if isinstance(found, str) else None


def _text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})", KEY_OF_SPEC) from None
