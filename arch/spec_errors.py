"""What pydantic found wrong with a spec, as one SpecError with file, line and key, in plain words."""

import re
from typing import Any

from arch.errors import SpecError, nearest
from arch.words import listed

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "tuple_type": "a list",
    "list_type": "a list",
}

# The tags of unions by the form of a value, in words.
FORMS = {"Number": "a number", "Text": "text", "List": "a list", "Mapping": "a mapping"}


def spec_error(error, root, path):
    """One SpecError for all pydantic errors: the first gives file and line, the others follow on their own lines."""
    found = [_located(item, root, path) for item in error.errors(include_url=False)]
    first, *others = [each for i, each in enumerate(found) if not _said_better(each.path, i, found)]
    return SpecError(first.reason, first.path, first.file, first.line, others)


def _said_better(path, i, found):
    """Whether another error makes this one redundant.

    These are redundant: an error of a value if another is deeper inside that value (from another branch of a union),
    and a repeated error: for the same value, or with the same line, key and reason (`like:` can reach a line twice).
    """
    place = lambda error: (error.file, error.line, error.path[-1:], error.reason)  # noqa: E731
    return any(
        (other.path[: len(path)] == path and (len(other.path) > len(path) or j < i))
        or (j < i and other.file is not None and place(other) == place(found[i]))
        for j, other in enumerate(found)
        if j != i
    )


def _located(item, root, path):
    loc = _without_union_tags(item["loc"], root.at(path))
    reason, got = re.sub(PREFIX, "", item["msg"]), item["input"]
    if item["type"] == "unknown_key":
        loc += (item["ctx"]["key"],)
    elif item["type"] == "missing":
        reason = "missing; this key is required"
    elif item["type"] in EXPECTED:
        reason = f"expected {EXPECTED[item['type']]}, got {_described(got)}"
        if item["type"] == "float_type" and isinstance(got, str) and (percent := PERCENT.fullmatch(got)):
            reason += f"; for {got.strip()} write {float(percent[1]) / 100:g}"
    elif item["type"] == "literal_error":
        reason = f"expected {item['ctx']['expected']}, got {_described(got)}"
        if isinstance(got, str):
            options = re.findall(r"'([^']*)'", item["ctx"]["expected"])
            reason = f"{got!r} is not one of them{nearest(got, options)}"
    elif item["type"] == "union_tag_invalid":
        forms = [FORMS[tag] for tag in FORMS if f"'{tag}'" in item["ctx"]["expected_tags"]]
        reason = f"expected {listed(forms, 'or')}, got {_described(got)}"
    elif item["type"] == "too_short" and not got:
        reason = "expected at least one, got none"
    elif not isinstance(got, (dict, list)):
        reason = reason.removeprefix("Input ")
        reason += "" if reason.endswith(f"got {_described(got)}") else f", got {_described(got)}"
    named = re.match(r"([a-z_]+(?:\.[a-z_]+)*): ", reason)
    if named:
        loc, reason = (*loc, *named[1].split(".")), reason[named.end() :]
    return root.error(reason, tuple(path) + loc)


# What pydantic puts before the text of an error that a validator of ours raises.
PREFIX = "^(Value error|Assertion failed), "
PERCENT = re.compile(r"\s*([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*%\s*")
UNION_TAG = re.compile(r"int|float|str|bool|none|[A-Z].*|.*[\[-].*")


def _without_union_tags(loc, place):
    """`loc` without the names of union branches that pydantic inserts (`constrained-int`, a class's name)."""
    kept: tuple[Any, ...] = ()
    for part in loc:
        value = place.at(kept).value
        if isinstance(part, int) or (isinstance(value, dict) and (part in value or not UNION_TAG.fullmatch(part))):
            kept += (part,)
    return kept


def _described(value):
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return repr(value)
