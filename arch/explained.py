"""What each option of a component means: half a line, read from the docstring of its Config, so that it is written once.

There, an option's name (or several with commas) and a colon begin its explanation, which ends where the next one begins:
`heads, kv_heads: H and K; head_dim: C, by default D / H. bias: on q, k, v.`
"""

import inspect
import re
from typing import Any


def options(config: type[Any]) -> dict[str, str]:
    """{option: its explanation} of a Config, a class of `arch.spec.Spec`; an option that its docstring does not name is missing.

    Options that it shares with others of its kind are explained in the class that they come from.
    """
    known = [field.alias or name for name, field in config.model_fields.items()]
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    if not names:
        return {}
    found: dict[str, str] = {}
    for each in config.__mro__:
        found = _of(inspect.cleandoc(vars(each).get("__doc__") or ""), names) | found
    return found


def _of(docstring: str, names: str) -> dict[str, str]:
    """The explanations in one docstring. names: of all options, as a pattern."""
    text = " ".join(docstring.split())
    # After the start, a sentence or a semicolon.
    begins = list(re.finditer(rf"(?:^|(?<=[.;)] ))(`?(?:{names})`?(?:, `?(?:{names})`?)*): ", text))
    found: dict[str, str] = {}
    ends = [each.start() for each in begins[1:]] + [len(text)]
    for begin, end in zip(begins, ends, strict=False):
        said = text[begin.end() : end].strip().rstrip(".;")
        for name in begin.group(1).split(", "):
            found.setdefault(name.strip("`"), said)
    return found
