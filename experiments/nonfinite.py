"""Where a number first stops being finite, and whether the model is to blame.

A pass that gave such a number is done once more with every module watched, and then in plain torch: numbers that are finite
there were lost by a fast path, and say nothing against the model or its learning rate. Only a run that has failed pays for
it. While numbers are finite nothing is watched, so training costs and computes the same as without this file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from arch.kernels import paths
from arch.model import Model
from experiments import ranks
from experiments.sharded import local

# A finite value from which on an overflow is likely where no value is infinite or NaN. Trained weights are far below it.
LARGE = 1e4
# The part that the model's parts lead to: the head's product and whatever the objective computes of it.
OBJECTIVE = "objective"
# Numbers that no healthy model has; a product of two is still far below what float32 holds. Past it a pass in plain torch may
# escape an overflow by chance: it rounds otherwise, or gives a score of -infinity another meaning.
HUGE = 1e9
# Who lost the numbers: done again in the same way the pass did not lose them; plain torch does not; plain torch does too.
MACHINE, PATH, MODEL = range(3)


class NonFinite(ArithmeticError):
    """A number of a run is infinite or not a number; the message is one line for a record.

    step: of the optimizer, -1 before the first. what: `loss`, `gradient`, `weight`, or a metric's name. where: the first
    part of the pass that gives such a number, e.g. `blocks.0.mixer`; empty where that is not known. tensors: names of that
    part's parameters and buffers that have such a value, or of the one with a very large value. note: more about them.
    fault: MODEL, or MACHINE or PATH where the same step of the same weights has finite numbers.
    """

    def __init__(self, step: int, what: str, where: str = "", tensors: tuple[str, ...] = (), note: str = "", fault: int = MODEL):
        self.step, self.what, self.where, self.tensors, self.note, self.fault = step, what, where, tensors, note, fault
        when = f"at step {step}" if step >= 0 else "before the first step"
        first = f", first in {where}" if where else ""
        super().__init__(f"{what} not finite {when}{first}" + (f"; {note}" if note else ""))


def error(step: int, what: str, model: Model, compute: Callable[[], Any], origin: str = "", outside: str = OBJECTIVE) -> NonFinite:
    """The error for a pass that gave a number that is not finite.

    compute: does the pass again, with the random numbers that it had, and backward too if `what` is a gradient; it returns its
    numbers, or raises ArithmeticError if they are not finite. origin: where the weights came from, if not from the seed.
    outside: what to name where all modules are finite. Ranks that share weights do the same passes, whatever comes of each.
    """
    tried, switch = _Tried(compute, model), paths.switch(model.head_weight.device)
    with suppress(Exception):
        tried()
    fine_again = tried.fine
    module = (backward if what == "gradient" else forward)(model, tried)
    compiled = any(each._compiled_call_impl for each in model.modules())
    fine_eager = tried.fine
    if switch or compiled:
        with suppress(Exception), _eager(), paths.plain():
            tried(watched=True)
    if fine_again:
        return NonFinite(step, what, note="done again in the same way it is finite", fault=MACHINE)
    if compiled and fine_eager:
        switch = "train.compile: off"
    if not (switch and tried.fine):
        return _found(step, what, model, module, origin, outside)
    note = f"with `{switch}` it is finite: a fast path is at fault, and not the model"
    return NonFinite(step, what, "" if module is None else part(module), note=note, fault=PATH)


class _Tried:
    """A pass to be done again. fine: whether all numbers that were seen the last time were below HUGE."""

    def __init__(self, compute: Callable[[], Any], model: Model):
        self.compute, self.model, self.fine = compute, model, False

    def __call__(self, watched: bool = False) -> None:
        """watched: every module's output is seen too, and not only what the pass returns."""
        self.fine, seen = False, []

        def see(value):
            seen.extend(bool((tensor.detach().abs() < HUGE).all()) for tensor in _tensors(value))  # NaN is below nothing

        modules = _watched(self.model) if watched else []
        hooks = [module.register_forward_hook(lambda module, args, output: see(output)) for _, module in modules]
        try:
            see(self.compute())
            self.fine = all(seen)
        finally:
            for hook in hooks:
                hook.remove()


def _found(step, what, model, module, origin, outside):
    """The error for a model and the module that `forward` or `backward` named."""
    head = "head.weight" if model.head is not None else "embedding"
    if module is None and not is_finite(model.head_weight):  # no module computes the logits
        return NonFinite(step, what, "head", (head,), _not_finite((head,), origin))
    where = outside if module is None else part(module)
    tensors, note = _suspects(model, module, origin)
    return NonFinite(step, what, where, tensors, note)


def agreed(error: NonFinite) -> NonFinite:
    """The error of that rank of the run that knows the place; all ranks must ask. One on its own knows what it knows.

    A rank whose own numbers are finite finds no fault in its model: the model is to blame if it is on any rank.
    """
    fields = ("step", "what", "where", "tensors", "note", "fault")
    errors = [NonFinite(*each) for each in ranks.gathered(tuple(getattr(error, name) for name in fields))]
    blamed = [each for each in errors if each.fault == max(each.fault for each in errors)]
    return next((each for each in blamed if each.where not in ("", OBJECTIVE)), blamed[0])


def weights(step: int, model: Model, origin: str = "") -> NonFinite | None:
    """The error for a model with parameters that have values that are not finite; None if it has none."""
    bad = tuple(name for name, weight in model.named_parameters() if not is_finite(weight))
    return NonFinite(step, "weight", part(bad[0]), bad, _not_finite(bad, origin)) if bad else None


def part(name: str) -> str:
    """The part of a model that a module or a parameter belongs to: a sub-layer of a block, the embedding, the norm."""
    words = name.split(".")
    return ".".join(words[:3]) if words[0] == "blocks" else words[0]


def is_finite(value: Any) -> bool:
    """Whether every floating-point number of the tensors in (lists, tuples, mappings of) a value is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def forward(model: Model, compute: Callable[[], Any]) -> str | None:
    """The first module whose output is not finite while its inputs are, by the order in which modules run.

    compute: does the pass. A module's name as in `named_modules`; `embedding` where the first blocks get such numbers
    already; None where every module's output is finite.
    """
    calls: list[_Call] = []

    def after(name):
        return lambda module, args, kwargs, output: calls.append(_Call(name, is_finite((args, kwargs)), is_finite(output)))

    hooks = [module.register_forward_hook(after(name), with_kwargs=True) for name, module in _watched(model)]
    with _removed(hooks):
        compute()
    return _first(calls)


def backward(model: Model, compute: Callable[[], Any]) -> str | None:
    """Like `forward`, for gradients, by the order of the backward pass, which `compute` does too.

    A gradient of a module's input belongs to that module, and that of a parameter to its owner. `objective` where the
    gradient of what the last module gives is not finite already; None where every gradient is finite.
    """
    owners: dict[int, str] = {}
    kept: list[Tensor] = []  # an id is only unique while its tensor lives
    hooks: list[Any] = []
    first: list[str] = []

    def watch(tensor, owner):
        if id(tensor) not in owners:
            kept.append(tensor)
            hooks.append(tensor.register_hook(partial(see, id(tensor))))
        owners[id(tensor)] = owner

    def see(key, gradient):
        if not first and not is_finite(gradient):
            first.append(owners[key])

    def before(name):
        def hook(module, args, kwargs):  # of the modules that take a tensor, the innermost comes last and keeps it
            for tensor in _tensors((args, kwargs)):
                if tensor.requires_grad:
                    watch(tensor, name)

        return hook

    def after(name):
        def hook(module, args, kwargs, output):  # until a module takes it, it belongs to what is around its module
            for tensor in _tensors(output):
                if tensor.requires_grad and id(tensor) not in owners:
                    watch(tensor, name.rpartition(".")[0] or OBJECTIVE)

        return hook

    for name, weight in model.named_parameters():
        if weight.requires_grad:
            watch(weight, name.rpartition(".")[0] or name)
    for name, module in _watched(model):
        hooks.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        hooks.append(module.register_forward_hook(after(name), with_kwargs=True))
    with _removed(hooks):
        compute()
    return first[0] if first else None


def _watched(model):
    """(name, module) of every module but the model itself."""
    return [(name, module) for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)]


@dataclass(frozen=True)
class _Call:
    """One call of a module: whether its inputs and its outputs were finite."""

    name: str
    inputs: bool
    output: bool


def _first(calls):
    """The module of the first of these calls, in the order in which they ended, that made a number that is not finite."""
    bad = {call.name for call in calls if not call.output}
    named = {call.name for call in calls}
    for call in calls:
        # A part may use infinities inside (a mask); it does harm only if what is around it is not finite either.
        if call.output or any(outer in named and outer not in bad for outer in _around(call.name)):
            continue
        inside = [each.name for each in calls if each.inputs and not each.output]
        return next((name for name in (call.name, *_around(call.name)) if name in inside), "embedding")
    return None


def _around(name):
    """The names of the modules that hold a module, the innermost first."""
    words = name.split(".")
    return [".".join(words[:length]) for length in range(len(words) - 1, 0, -1)]


def _suspects(model, module, origin):
    """(names of a module's tensors that are not finite or very large, a sentence about them)"""
    if module is None:
        return (), ""
    name, inside = (module, model.get_submodule(module)) if module in dict(model.named_modules()) else ("", model)
    own = {".".join(filter(None, (name, each))): local(tensor) for each, tensor in _state(inside) if name or each == module}
    bad = tuple(each for each, tensor in own.items() if not is_finite(tensor))
    if bad:
        return bad, _not_finite(bad, origin)
    sizes = {each: float(tensor.detach().abs().max()) for each, tensor in own.items() if tensor.numel()}
    largest = max(sizes, key=lambda each: sizes[each], default="")
    if largest and sizes[largest] >= LARGE:
        return (largest,), f"{largest}{_started(origin)} has values up to {sizes[largest]:.3g}"
    return (), ""


def _not_finite(names, origin):
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}{_started(origin)} {'has' if len(names) == 1 else 'have'} values that are not finite"


def _started(origin):
    return f" (started from {origin})" if origin else ""


def _state(module):
    yield from module.named_parameters()
    yield from ((name, tensor) for name, tensor in module.named_buffers() if tensor.is_floating_point())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a value."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield local(value)  # of weights that ranks share, each looks at its own part
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _eager():
    """Context manager: without torch.compile."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _removed(hooks):
    """Context manager: eager, so that hooks run; an error inside is left out; the hooks are removed afterwards.

    The pass explains a failure that is known already. An error of its own must not take that failure's place.
    """
    try:
        with suppress(Exception), _eager():
            yield
    finally:
        for hook in hooks:
            hook.remove()
