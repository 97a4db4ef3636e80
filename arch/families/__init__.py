"""The names that foreign checkpoints give to our parameters: one file per family.

`NAMES` maps our parameter names to theirs. In our names `*` is the layer number, and a component's parameters start
with its type (`blocks.*.mixer.rg_lru.o.weight`), those of an encoder beside a decoder with `encoder.`. A value is their
name, or an `As` if the tensor has another layout.
`ROOTS` (optional) lists the prefixes that may replace the leading `model.` of their names. `IGNORED` (optional) lists
prefixes of tensors that are not part of the model. With these, a family's checkpoints can be imported with a spec.

`Config` (optional) converts between the family's config.json and a spec (see `arch.families.config`). `TRUNK` (optional) is the
class of `transformers` that has no head: encoders go in and out with families that have one (`arch.sentence`). `WITH_IMAGES`
(optional) is the class with a vision tower (`arch.multimodal`).
"""

import importlib
import pkgutil
import re

from arch.errors import DataError, SpecError, nearest
from arch.model_spec import ENCODER, SUBLAYER_NAME
from arch.tensors import As


def names():
    """Names of the families that come with Archbench."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "config")


def named(name):
    """The module of a family, by the name of a shipped one or the import path of your own. Raises DataError."""
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
    """A family's name: that of a shipped one, or the import path."""
    return family.__name__.removeprefix(f"{__name__}.")


def trunk(parameters):
    """The names of the parameters that a family can name: all but the maps behind a pool and a tower, which stand beside a trunk's
    tensors."""
    return [name for name in parameters if not name.startswith(("project.", "vision."))]


def table(family, spec, parameters):
    """{our parameter: As} for each of `parameters`, the parameter names of a model of `spec`.

    Raises SpecError for the first parameter that the family has no name for.
    """
    found = {}
    for name in parameters:
        generic, layer, block = name, "", None
        stack, bare = (ENCODER, name.removeprefix(ENCODER)) if name.startswith(ENCODER) else ("", name)
        if match := SUBLAYER_NAME.fullmatch(bare):
            layer, kind, rest = match.groups()
            of = spec.encoder_spec if stack else spec
            block = of.layer_blocks()[int(layer)]
            component = getattr(of.blocks[block], kind)["type"]
            generic = f"{stack}blocks.*.{kind}." + re.sub(r"^component\.", f"{component}.", rest)
        if generic not in family.NAMES:
            what = generic.replace("blocks.*.", "").removesuffix(".weight")
            where = "" if block is None else f"blocks.{block}: "
            raise SpecError(f"{where}{title(family)} has nothing like its {what}")
        source = family.NAMES[generic]
        source = source if isinstance(source, As) else As(source)
        found[name] = As(source.name.replace("*", layer), source.read, source.write)
    return found
