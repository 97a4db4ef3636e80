"""Which study a command means, with what the command line overrides of it: `--set KEY=VALUE`, `--seeds N`, `--name NAME`.

The overrides are applied last: after `extends`, and as if they were the last lines of the scale that is chosen. So an arm that
writes a key itself keeps its value, as it does where a scale writes the key.

A study with overrides has a name of its own, `STUDY+train.steps=50`, and therefore a folder of its own: the record and the
report of the plain study stay as they are. Runs that both have are made once, because a run is found by its identity.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch import document
from arch.document import Node
from arch.errors import SpecError
from arch.spec import digest, spelt
from arch.words import listed
from sweeps import origin, places
from sweeps.folders import LONGEST, safe_name, study_folder, study_name
from sweeps.record import Origin
from sweeps.scale import default_scale
from sweeps.spec import StudySpec, split

# An override of such letters can be read in the name of a folder; any other has a digest there.
READABLE = re.compile(r"[\w.@=-]+", re.ASCII)
DIGEST = 8


@dataclass(frozen=True)
class Selected:
    """The study that a command names. root: its document with the overrides. name: of its record and its folder.

    scale: as named, or the default. changes: {dotted key: value} of the overrides. options: the words of the command that
    select it, after its name. origin: whose record may lie in its folder. begun: its folder, where the command named that.
    """

    reference: str
    root: Node
    name: str
    scale: str | None
    changes: Mapping[str, Any]
    options: tuple[str, ...]
    origin: Origin
    begun: Path | None = None

    def below(self, runs: Path | str) -> Path:
        """The folder of all runs in which it lies."""
        return self.begun.parent.parent if self.begun else Path(runs)

    def folder(self, runs: Path | str) -> Path:
        """The study's folder among all runs. Raises SpecError where the study is not valid."""
        if self.begun:
            return self.begun
        return study_folder(runs, self.name, self.scale, split(self.root, self.scale)[0].scales)

    def command(self, word: str, further: Sequence[str] = ()) -> str:
        """The command line that does the same again, `archbench study WORD STUDY ...`."""
        return shlex.join(["archbench", "study", word, self.reference, *self.options, *further])

    def remarks(self, spec: StudySpec) -> list[str]:
        """Sentences on overrides that do not reach all arms, because these say or choose the value themselves."""
        said = []
        for key, value in self.changes.items():
            shown, tuned = f"--set {key}={spelt(value)}", spec.tune.space if spec.tune else {}
            keep = [label for label, arm in {**spec.arms, **spec.runs}.items() if any(_meet(key, other) for other in arm)]
            if keep:
                verb = "writes it itself and keeps its" if len(keep) == 1 else "write it themselves and keep their"
                said.append(f"{shown}: {listed(map(repr, keep))} {verb} value")
            if any(_meet(key, other) for other in tuned):
                said.append(f"{shown}: `tune` chooses this value for every arm")
        return said


def selected(
    reference: str,
    scale: str | None = None,
    changes: Sequence[str] = (),
    seeds: int | None = None,
    name: str | None = None,
    runs: Path | str = places.RUNS,
) -> Selected:
    """The study of a command line. Raises SpecError for a study that cannot be read and for overrides of another form.

    The folder of a study that has begun, or its place below RUNS, stands for the command that began it, with these options more.
    """
    begun = None
    if there := places.written(reference, runs):
        begun = there.folder if (scale or there.scale, list(changes), seeds, name) == (there.scale, [], None, None) else None
        reference, scale = there.reference, scale or there.scale
        again = {_key(each) for each in changes} | ({"seeds"} if seeds is not None else set())
        changes = [*(each for each in there.changes if _key(each) not in again), *changes]
        seeds = there.seeds if seeds is None and "seeds" not in again else seeds
        name = name or there.name
    root = document.load(reference, "sweeps")
    named, scale = scale, scale or default_scale(root)
    values = document.changes_of(changes)
    if seeds is not None:
        if "seeds" in values.value:
            raise SpecError(f"{values.value['seeds'].file} is given as well; expected one of the two", file=f"--seeds {seeds}")
        values = Node({**values.value, "seeds": document.node(seeds, f"--seeds {seeds}")})
    if name is not None and (len(name) > LONGEST or not re.search(r"\w", name)):
        raise SpecError(f"expected at most {LONGEST} characters, with a letter or a digit among them", file=f"--name {name}")
    root, plain = _changed(root, scale, values), values.plain()
    options = ["--scale", named] if named else []
    for text in changes:
        options += ["--set", text]
    options += ["--seeds", str(seeds)] if seeds is not None else []
    options += ["--name", name] if name is not None else []
    called = name or _name(study_name(reference), plain)
    return Selected(reference, root, called, scale, plain, tuple(options), origin.of(reference, root), begun)


def _key(change: str) -> str:
    """The key of a KEY=VALUE."""
    return change.partition("=")[0].strip()


def _changed(root: Node, scale: str | None, values: Node) -> Node:
    """A study's document in which the overrides are the last lines of the scale; without a scale, of the study itself."""
    if not values.value:
        return root
    if scale is None:
        return document.overridden(root, values)
    every = root.value.get("scales")
    chosen = every.value.get(scale) if every and isinstance(every.value, dict) else None
    if every is None or chosen is None or not isinstance(chosen.value, dict):
        return root  # whoever splits the study says what is wrong
    lines = {key: value for key, value in chosen.value.items() if key not in values.value}
    last = Node({**lines, **values.value}, chosen.file, chosen.line)
    return Node({**root.value, "scales": Node({**every.value, scale: last}, every.file, every.line)}, root.file, root.line)


def _name(study: str, changes: Mapping[str, Any]) -> str:
    """`STUDY+train.steps=50+seeds=3`; with a digest where the name of a folder could not tell these overrides from others."""
    if not changes:
        return study
    parts = [f"{key}={spelt(value)}" for key, value in sorted(changes.items())]
    text = "+".join([study, *parts])
    if len(text) <= LONGEST and all(map(READABLE.fullmatch, parts)):
        return text
    return f"{safe_name(text)[: LONGEST - DIGEST - 1].rstrip('-.+')}-{digest(dict(changes))[:DIGEST]}"


def _meet(key: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies inside the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
