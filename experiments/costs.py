"""The cost of a model, computed once: `arch.cost` runs every block on the meta device, a third of a second per model.

Costs are kept in memory and as JSON in the cache folder, keyed by all that decides them: the model, the context, plug-in
sources, the sources of `arch` and torch's version.
"""

import copy
import hashlib
import json
from contextlib import suppress
from functools import cache

import torch

from arch import cost
from arch.document import ROOT
from arch.spec import digest
from experiments.data.cache import root
from experiments.files import write_atomically

FOLDER = "costs"
_COSTS = {}


def summary(model, context, plugins, mixed=False):
    """`arch.cost.summary` of a resolved ModelSpec at a context. plugins: digests of the sources of its plug-ins."""
    decides = {"model": model.dump(), "context": context, "plugins": plugins, **({"mixed": True} if mixed else {})}
    key = digest({**decides, "arch": sources(), "torch": torch.__version__})
    if key not in _COSTS:
        _COSTS[key] = kept(
            root() / FOLDER / f"{key}.json", lambda: cost.summary(model, context, **({"mixed": True} if mixed else {}))
        )
    return copy.deepcopy(_COSTS[key])


def kept(path, compute):
    """The JSON in a file, or what `compute` returns, which is then written there. A cache may be missing or damaged."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    computed = compute()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(computed).encode())
    return computed


@cache
def sources(folder="arch"):
    """Digest of the Python sources of a folder of ours, with those below it."""
    found = hashlib.sha256()
    for path in sorted((ROOT / folder).rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
