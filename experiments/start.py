"""Starting a run from the weights of a checkpoint (`init_from`)."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from arch import checkpoint, tensors
from arch.errors import DataError
from arch.spec import SUBLAYER_NAME, List, Spec


class Start(Spec):
    """A checkpoint and the parameters that a model takes from it.

    sha256: of the checkpoint's weights file. taken: names of the parameters that start from the checkpoint.
    new: {name: reason} of the parameters that are drawn from the seed instead.
    unused: names of the checkpoint's parameters that the model does not have.
    """

    folder: str
    sha256: str
    taken: List[str]
    new: dict[str, str]
    unused: List[str]

    @property
    def identity(self):
        """The part that determines a run's result: the hash of the weights and the names taken."""
        return {"sha256": self.sha256, "taken": sorted(self.taken)}

    def notes(self):
        """Yields sentences for the record: what was taken, what is new and why, what is unused."""
        total = len(self.taken) + len(self.new)
        yield f"started from {self.folder} ({self.sha256[:12]}): {len(self.taken)} of {total} parameters"
        by_reason = {}
        for name, why in self.new.items():
            by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            yield f"new, {why}: {_short(names)}"
        if self.unused:
            yield f"in the checkpoint, but not in the model: {_short(self.unused)}"

    def fill(self, model):
        """Copy the taken parameters into `model`. Raises DataError if the weights have changed since planning."""
        if content(self.folder) != self.sha256:
            raise DataError(f"{self.folder}: its weights have changed since the run was planned; plan it again", key=None)
        _, found = checkpoint.open_checkpoint(self.folder)
        checkpoint.fill(model, tensors.renamed(found, {name: tensors.As(name) for name in self.taken}))


def plan_start(spec, folder):
    """The Start of a model of `spec` (resolved) from a checkpoint folder; `~` is expanded. Raises DataError.

    A parameter is taken if its name, its shape and the type of its component agree with the checkpoint. So if another
    mixer type replaces the checkpoint's, all its parameters are new, even where a name and a shape happen to match.
    """
    folder = Path(folder).expanduser()
    try:
        theirs, found = checkpoint.open_checkpoint(folder)
    except ValueError as error:
        raise DataError(f"{error}; `archbench import` converts other formats", key=("init_from",)) from None
    new, taken, expected = {}, [], checkpoint.parameters(spec)
    for name, shape in expected.items():
        if name not in found.entries:
            new[name] = "not in the checkpoint"
        elif (mine := _component(spec, name)) != (other := _component(theirs, name)):
            new[name] = f"part of {mine} where the checkpoint has {other}"
        elif found.entries[name].shape != shape:
            new[name] = "different shape in the checkpoint"
        else:
            taken.append(name)
    if not taken:
        raise DataError(f"{folder}: it has no parameter of this model", key=("init_from",))
    unused = tuple(name for name in found.entries if name not in expected)
    return Start(folder=str(folder), sha256=content(folder), taken=tuple(taken), new=new, unused=unused)


def content(folder):
    """sha256 (hex) of a checkpoint's weights file."""
    path = Path(folder) / checkpoint.WEIGHTS
    about = path.stat()
    return _content(path.resolve(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _content(path, size, modified):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _component(spec, name):
    """The type of the component that a parameter belongs to; None for norms and for parameters outside the blocks."""
    match = SUBLAYER_NAME.fullmatch(name)
    if match is None or not match[3].startswith("component."):
        return None
    return spec.blocks[spec.layer_blocks()[int(match[1])]].sublayers()[match[2]]["type"]


def _short(names):
    """Parameter names in one line, merged over layers: `blocks.{0,1,2}.mixer.component.q.weight`."""
    layers = {}
    for name in names:
        match = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        layers.setdefault(match[2] if match else name, []).append(match and match[1])
    shown = []
    for rest, numbers in layers.items():
        inside = numbers[0] if len(numbers) == 1 else "{" + ",".join(map(str, numbers)) + "}"
        shown.append(rest if numbers[0] is None else f"blocks.{inside}.{rest}")
    return ", ".join(shown)
