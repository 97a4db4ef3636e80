"""Find a component's class by name: the name of its file, or the import path of a user's own module.

A component is imported only when its class is needed, so names can be listed and checked without torch.
"""

import importlib.util
import inspect
import pkgutil
from functools import cache, reduce
from operator import getitem

from arch import blame
from arch.document import ROOT, Node, node
from arch.errors import SpecError, nearest
from arch.model_spec import expand_like
from arch.plugins import is_plugin
from arch.spec import Spec

FOLDERS = {
    "mixer": "arch.mixers",
    "ffn": "arch.ffns",
    "cross": "arch.crosses",
    "pool": "arch.pools",
    "tower": "arch.towers",
    "quantiser": "arch.quantisers",
    "source": "experiments.data.sources",
    "tokenizer": "experiments.data.tokenizers",
    "objective": "experiments.objectives",
    "optimizer": "experiments.optimizers",
    "schedule": "experiments.schedules",
    "evaluator": "experiments.evaluators",
    "merge": "experiments.merges",
    "reward": "experiments.rewards",
    "claim": "sweeps.claims",
}


# {kind: options that every component of the kind must have}, because what uses the component reads them.
OPTIONS = {
    "optimizer": ("lr", "clip"),
    "tower": ("image_size", "tokens", "frozen", "spans", "placeholder", "start", "end"),
}


def _marker(kind):
    def mark(cls):
        if not (isinstance(getattr(cls, "Config", None), type) and issubclass(cls.Config, Spec)):
            raise TypeError(f"{cls.__name__} needs a nested `class Config(Spec)` that holds its options")
        for option in OPTIONS.get(kind, ()):
            if option not in cls.Config.model_fields:
                raise TypeError(f"{cls.__name__}.Config needs the option `{option}`, which every {kind} has")
        cls.kind = kind
        return cls

    mark.__doc__ = f"Class decorator: register this class, which has a nested `Config(Spec)`, as a {kind}."
    return mark


mixer, ffn, cross, pool, tower, quantiser, source, tokenizer, objective, optimizer, schedule, evaluator, merge, reward, claim = map(
    _marker, FOLDERS
)


def names(kind):
    """The names of the shipped components of a kind, without importing them."""
    return list(_names(kind))


@cache
def _names(kind):
    folder = ROOT.joinpath(*FOLDERS[kind].split("."))
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


def check_name(kind, name):
    """Raises SpecError unless `name` is a shipped component or the import path of a module that can be found."""
    if not is_plugin(name):
        if name not in names(kind):
            hint = nearest(name, names(kind))
            raise SpecError(f"no {kind} {name!r}{hint} (or the import path of your own, module:Class)", ("type",))
        return
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise SpecError(f"no module {module!r} can be imported from here", ("type",))


def component(kind, name):
    """The class of a component. Raises SpecError if its module has none, or more than one, or cannot be imported.

    `package.module:Class` selects one of several classes.
    """
    check_name(kind, name)
    path, _, wanted = name.partition(":")
    module = _imported(path) if is_plugin(name) else importlib.import_module(f"{FOLDERS[kind]}.{name}")
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and getattr(cls, "kind", None) == kind and cls.__module__ == module.__name__
    ]
    found = [cls for cls in found if not wanted or cls.__name__ == wanted]
    if len(found) != 1:
        what = f"{len(found)} classes marked @{kind}" + (f" named {wanted}" if wanted else "")
        raise SpecError(f"{path} has {what}; expected one", ("type",))
    return found[0]


def _imported(path):
    """A user's own module. What it raises becomes a SpecError that names the last line which Python ran, or could not read."""
    try:
        return importlib.import_module(path)
    except SystemExit as error:
        raise SpecError(f"{path} cannot be imported: it calls {blame.words(error)} ({blame.place(error)})", ("type",)) from None
    except Exception as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise SpecError(f"{path} cannot be imported: {type(error).__name__}: {reason} ({blame.place(error)})", ("type",)) from error


def purpose(component):
    """What a component is: the first paragraph of its class's docstring, on one line."""
    return " ".join((inspect.getdoc(component) or "").partition("\n\n")[0].split())


def resolve_component(kind, root, path):
    """Plain data of the component at `path` of the document `root`, validated and with every default filled in.

    Raises SpecError naming file, line and key.
    """
    written = root.at(path)
    name = written.value["type"].value
    try:
        config = component(kind, name).Config
    except SpecError as error:
        raise root.error(error.reason, (*path, *error.path)) from None
    options = {key: value for key, value in written.value.items() if key != "type"}
    try:
        return {"type": name, **config.parse(Node(options, written.file, written.line)).dump()}
    except SpecError as error:
        raise error.below(path) from None


def build(kind, resolved, *args, **kwargs):
    """An instance of a resolved component: `cls(config, *args, **kwargs)`."""
    return component(kind, resolved["type"])(config(kind, resolved), *args, **kwargs)


def config(kind, resolved):
    """The options of a resolved component, an instance of its `Config`."""
    return component(kind, resolved["type"]).Config.parse({key: value for key, value in resolved.items() if key != "type"})


def decisive(kind, resolved):
    """A resolved component as plain data without the options that do not affect a run's result (`arch.spec.place`)."""
    return {"type": resolved["type"], **config(kind, resolved).dump(identity=True)}


def whole(kind, resolved, dim=None):
    """A resolved component as plain data with every option, also those that `dump` omits at their neutral value.

    dim: the width of its model, from which a null default may follow; such defaults are written out then (`Config.at_width`).
    """
    options = config(kind, resolved)
    if dim is not None and follows_width(options):
        full = options.at_width(dim)
        if not isinstance(full, type(options)):
            raise SpecError(f"{resolved['type']}: its Config.at_width gives {type(full).__name__}, expected a Config")
        options = full
    return {"type": resolved["type"], **options.dump(neutral=True)}


def follows_width(options):
    """Whether a component's `Config` can write out the null defaults that follow from the model's width (`at_width`)."""
    return callable(getattr(options, "at_width", None))


def whole_model(spec):
    """A resolved ModelSpec as plain data with every field and option: what two models are compared by."""
    data = spec.dump(neutral=True)
    for path, kind, resolved in spec.components():
        *above, last = path
        reduce(getitem, above, data)[last] = whole(kind, resolved)
    return data


def resolve(spec, source=None, path=()):
    """The ModelSpec with every component validated and complete. A run stores this form, and digests are of this form.

    source, path: the document that `spec` was parsed from and its place there, for file and line in errors. All names
    are checked before any component is imported. Raises SpecError.
    """
    root = expand_like(node(spec.dump() if source is None else source), path)
    parts = [((*path, *where), kind, component["type"]) for where, kind, component in spec.components()]
    for where, kind, component_type in parts:
        try:
            check_name(kind, component_type)
        except SpecError as error:
            raise root.error(error.reason, (*where, *error.path)) from None
    resolved = {where[len(path) :]: resolve_component(kind, root, where) for where, kind, _ in parts}

    def complete(blocks, *above):
        return {
            name: block.model_copy(update={kind: resolved[*above, "blocks", name, kind] for kind in block.sublayers()})
            for name, block in blocks.items()
        }

    rounding, encoder = spec.quantise, spec.encoder
    if rounding is not None:
        rounding = rounding.model_copy(update={role: resolved["quantise", role] for role in rounding.roles()})
    if encoder is not None:
        encoder = encoder.model_copy(update={"blocks": complete(encoder.blocks, "encoder")})
    others = {name: resolved.get((name,)) for name in ("pool", "vision")}
    return spec.model_copy(update={"blocks": complete(spec.blocks), "quantise": rounding, "encoder": encoder, **others})
