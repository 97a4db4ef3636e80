"""Specs of models as frozen plain data: `Spec` (the base class of every spec), `BlockSpec` and `ModelSpec`.

This module does not import torch: programs that never build a model compare, digest and print specs.
"""

import hashlib
import json
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from arch import document, explained
from arch.errors import unknown_key
from arch.spec_errors import spec_error


class Spec(BaseModel):
    """Base class of all specs: frozen, strict, finite numbers only. An error for an unknown key names the nearest keys.

    A field declared with `later(neutral)` was added after the first release. `dump` omits it at its neutral value, so
    digests of older specs do not change. A field declared with `place` says where a run computes or how often it saves,
    not what it computes; `dump(identity=True)` omits it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data):
        if isinstance(data, dict):
            known = cls.keys()
            for key in data:
                if key not in known:
                    raise PydanticCustomError("unknown_key", "{reason}", {"key": key, "reason": unknown_key(key, known)})
        return data

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema, handler):
        """The JSON Schema, in which every key has its explanation (`arch.explained`)."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for key, text in explained.options(cls).items():
            if key in schema.get("properties", {}):
                schema["properties"][key]["description"] = text
        return schema

    @classmethod
    def keys(cls):
        """The fields' keys as written in a file."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def parse(cls, source, path=()):
        """A validated spec from a document.Node or plain data.

        path: the place in `source` of the part to parse. Raises SpecError with file, line and key.
        """
        root = document.node(source)
        try:
            return cls.model_validate(root.at(path).plain())
        except ValidationError as error:
            raise spec_error(error, root, path) from None

    def dump(self, identity=False, neutral=False):
        """Plain data that `parse` accepts. identity: omit fields that do not affect a run's result.

        neutral: with the fields that are at the neutral value of `later`.
        """
        data = {}
        for name, field in type(self).model_fields.items():
            value, extra = getattr(self, name), _extra(field)
            if not neutral and "neutral" in extra and value == extra["neutral"]:
                continue
            if identity and extra.get("place"):
                continue
            data[field.alias or name] = _plain(value, identity, neutral)
        return data


def _extra(field):
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def later(neutral, place=False, **kwargs):
    """A field added after the first release. The digest omits it at the value `neutral`, and always if `place`."""
    return Field(default=neutral, json_schema_extra={"neutral": neutral, "place": place}, **kwargs)


def place(default, **kwargs):
    """A field that is not part of a run's identity: where it computes or reads (strategy, files), how often it saves.

    A default of `...` makes it required.
    """
    return Field(default=default, json_schema_extra={"place": True}, **kwargs)


def _plain(value, identity, neutral):
    if isinstance(value, Spec):
        return value.dump(identity, neutral)
    if isinstance(value, dict):
        return {key: _plain(child, identity, neutral) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child, identity, neutral) for child in value]
    return value


def digest(data):
    """sha256 (hex) of a Spec or of plain data; it does not depend on the order of keys."""
    if isinstance(data, Spec):
        data = data.dump(identity=True)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Absent(Enum):
    """The value, in a difference, of a key that one of two specs does not have: an option of another component's."""

    ABSENT = "–"

    def __str__(self) -> str:
        return str(self.value)


ABSENT = Absent.ABSENT


def diff(a, b):
    """Differences of two specs: `{dotted key: (value in a, value in b)}`, with ABSENT for a key that one does not have.

    Accepts specs or plain data; of a Spec, every field is compared, also at its default. Mappings are compared key by key,
    lists as a whole. A mapping against anything else is one difference: `rope: {theta: 1e4}` against `rope: null`.
    """
    whole_a, whole_b = (_plain(spec, identity=False, neutral=True) for spec in (a, b))
    return dict(_differences(whole_a, whole_b, ""))


def _differences(a, b, prefix):
    for key in [*a, *(key for key in b if key not in a)]:
        before, after = a.get(key, ABSENT), b.get(key, ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after or isinstance(before, bool) != isinstance(after, bool):
            yield f"{prefix}{key}", (before, after)


def unwritten(changes, a, b):
    """The keys of `changes` (of `diff`) that only follow from another component's `type`: options at their defaults.

    Two components of different types have different options. Those that just one of them has, and that nobody wrote,
    say nothing beyond the type. a, b: the two specs as written, plain data with every `extends` and `like` resolved.
    """
    replaced = tuple(key.removesuffix("type") for key in changes if key.endswith(".type"))
    return [
        key
        for key, (before, after) in changes.items()
        if key.startswith(replaced) and ABSENT in (before, after) and value_at(b if before is ABSENT else a, key) is ABSENT
    ]


def value_at(data, dotted):
    """The value at a dotted key of plain data; ABSENT where there is none."""
    for part in dotted.split("."):
        if not isinstance(data, dict) or part not in data:
            return ABSENT
        data = data[part]
    return data


def spelt(value):
    """A value on one line, as a spec file would have it: `null`, `true`, `0.012`, `[3*local, global]`, `{theta: 10000}`.

    ABSENT is a dash. A text that YAML would read as something else is quoted, so that different values look different.
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {spelt(child)}' for key, child in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(spelt, value))}]"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value == str(ABSENT) or _reads_as_another(value) else value
    return json.dumps(value) if value is None or isinstance(value, (bool, int)) else str(value)


def _reads_as_another(text):
    if text.strip().lower() in ("", "~", "null", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


# Count: a whole number of at least 1. Positive: a finite number above 0. Fraction: a number from 0 to 1. Inner: a number
# between 0 and 1, neither included.
# List: a list in YAML, a tuple in Python.
Count = Annotated[int, Field(ge=1)]
FirstSeed = Annotated[int, Field(ge=1, le=2**31)]  # further ones follow, and NumPy takes 32 bits
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Inner = Annotated[float, Field(gt=0, lt=1)]
Item = TypeVar("Item")
List = Annotated[tuple[Item, ...], Strict(False)]


def _has_type(value):
    if not isinstance(value.get("type"), str):
        raise ValueError("a component needs `type: NAME`")
    return value


Component = Annotated[dict[str, Any], AfterValidator(_has_type)]  # as written; the registry validates the options


class Kind:
    """Which kind of component a field holds: `Annotated[Component, Kind("mixer")]`."""

    def __init__(self, kind):
        self.kind = kind

    def __get_pydantic_json_schema__(self, core_schema, handler):
        return {"component": self.kind}  # `arch.schema` replaces this by the choice of components
