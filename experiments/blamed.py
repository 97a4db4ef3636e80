"""What a failed run says of an error in code of a user's own: the part of the model, the component, and the line."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from arch import blame
from arch.model import Model
from experiments import compiled
from experiments.nonfinite import part


class Blamed(NamedTuple):
    """error: the exception's class. message: one line. where: the part of the model whose forward pass raised it, or empty."""

    error: str
    message: str
    where: str = ""


def blamed(error: BaseException) -> Blamed:
    """How a record says an error. Of shipped code only the message is known to help."""
    where, component = _component(error)
    own = blame.own_place(error) or blame.forward(type(component))
    message = blame.words(error) + " was called" if isinstance(error, SystemExit) else compiled.explained(error)
    if not own:
        return Blamed(type(error).__name__, message)
    kind = type(component)
    named = f"{where}: {kind.__module__}:{kind.__name__}, " if component is not None else ""
    return Blamed(type(error).__name__, f"{message} ({named}{own})", where)


def _component(error: BaseException) -> tuple[str, Any]:
    """(the part of the model whose forward pass raised an error, its component); ("", None) where none was running."""
    selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    model = next((each for each in selves if isinstance(each, Model)), None)
    names = {id(module): name for name, module in model.named_modules() if name} if model is not None else {}
    inside = [names[id(each)] for each in selves if id(each) in names]
    if model is None or not inside or not inside[-1].startswith("blocks."):
        return "", None
    where = part(inside[-1])
    return where, getattr(model.get_submodule(where), "component", None)
