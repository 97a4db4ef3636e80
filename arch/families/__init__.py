"""What checkpoints of others call our parameters, a family a file.

`NAMES` maps our parameters to theirs: `*` stands for the layer, and a component's parameters are named by its type
(`blocks.*.mixer.rg_lru.o.weight`). A value is their name, or an `As` where the tensor is laid out otherwise. `ROOTS`,
optional, are what may stand in place of the names' leading `model.`; `IGNORED`, optional, begin the names of tensors
that are no part of the model. That is all a family needs to be imported with a spec.

`Config`, optional, reads the family's config.json as a spec, and writes it (see `arch.families.config`).
"""

import importlib
import pkgutil
import re

from arch.errors import DataError, SpecError, nearest
from arch.tensors import As


def names():
    """The families that come with Archbench."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "config")


def named(name):
    """A family by its name here, or by the import path of a module with `NAMES`. Raises DataError."""
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    try:
        module = importlib.import_module(name)
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        hint = f"{nearest(name, names())} (or the import path of your own)"
        raise DataError(f"no family {name!r}: {error}{hint}", key=None) from None
    if not isinstance(getattr(module, "NAMES", None), dict) or "embedding" not in module.NAMES:
        raise DataError(
            f"the module {name} has no `NAMES`, a mapping of our parameters' names, `embedding` among them, to theirs", key=None
        )
    return module


def title(family):
    """What a family is called."""
    return family.__name__.removeprefix(f"{__name__}.")


def table(family, spec, parameters):
    """{our parameter: As} for each of `parameters`, names of a model of `spec`.

    Raises SpecError for the first that the family has no name for.
    """
    found = {}
    for name in parameters:
        generic, layer, block = name, "", None
        if match := re.fullmatch(r"blocks\.(\d+)\.(mixer|ffn)\.(.*)", name):
            layer, kind, rest = match.groups()
            block = spec.layer_blocks()[int(layer)]
            component = getattr(spec.blocks[block], kind)["type"]
            generic = f"blocks.*.{kind}." + re.sub(r"^component\.", f"{component}.", rest)
        if generic not in family.NAMES:
            what = generic.removeprefix("blocks.*.").removesuffix(".weight")
            where = "" if block is None else f"blocks.{block}: "
            raise SpecError(f"{where}{title(family)} has nothing like its {what}")
        source = family.NAMES[generic]
        source = source if isinstance(source, As) else As(source)
        found[name] = As(source.name.replace("*", layer), source.read, source.write)
    return found
