"""Of which kind a spec is, or what a folder holds, and the command that is meant for each."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from arch import document
from arch.document import SHELVES, Node
from arch.errors import SpecError
from arch.model_spec import ModelSpec
from experiments.bench.spec import BenchSpec
from experiments.record import RECORDS
from experiments.spec import ExperimentSpec
from sweeps.record import NAME as STUDY
from sweeps.spec import StudySpec

# {folder of shipped specs: the kind of its specs}, in the order in which a name without its folder is looked up.
KINDS = {"sweeps": "study", "experiments": "experiment", "arch": "model", "bench": "benchmark"}
# What to do with a spec of a kind.
COMMANDS = {
    "study": "archbench study run",
    "experiment": "archbench run",
    "model": "archbench show",
    "benchmark": "archbench bench --spec",
    "run": "archbench report",
    "checkpoint": "archbench generate",
}
# {file: what a folder is that has it}, in the order in which they are looked for.
INSIDE = {STUDY: "study", **dict.fromkeys(RECORDS, "run"), "spec.yaml": "checkpoint"}


def inside(folder: Path | str) -> str | None:
    """What a folder is: `study`, `run` or `checkpoint`; None for any other."""
    return next((kind for name, kind in INSIDE.items() if (Path(folder) / name).exists()), None)


def meant(reference: str, kind: str, command: str = "") -> SpecError:
    """The error about a reference of this kind where another one was expected. command: by default that of COMMANDS."""
    article = "an" if kind[0] in "aeiou" else "a"
    return SpecError(f"this is {article} {kind}: {command or COMMANDS[kind]} {reference}", file=reference)


def of(reference: str, first: str | None = None) -> str:
    """The kind of a spec: one of KINDS, by its folder, or by its keys and what it extends.

    A shipped name without its folder is looked up in the order of KINDS, but for the kind `first`. Raises SpecError where there
    is no such spec.
    """
    return _kind(reference, None, (), first)


def _kind(reference: str, beside: Path | None, above: tuple[Path, ...], first: str | None = None) -> str:
    if not reference.endswith((".yaml", ".yml")):
        shelf, _, rest = reference.partition("/")
        if shelf in KINDS and rest:
            return KINDS[shelf]
        shelves = {shelf: document.shipped(shelf) for shelf in SHELVES}
        for shelf in sorted(KINDS, key=lambda shelf: KINDS[shelf] != first):
            if reference in shelves[shelf]:
                return KINDS[shelf]
        if (beside.parent if beside else Path()).joinpath(f"{reference}.yaml").is_file():
            return _kind(f"{reference}.yaml", beside, above)
        known = dict.fromkeys(name for names in shelves.values() for name in names)
        raise document.absent(reference, known, beside)
    path = document.find(reference, "sweeps", beside)
    written = document.read(path).value
    kinds = [_of_keys(written)]
    extended = written.get("extends", Node(None)).value
    if isinstance(extended, str) and path.resolve() not in above:
        with suppress(SpecError):  # whoever loads the spec says what is wrong with it, and on which line
            kinds.append(_kind(extended, path, (*above, path.resolve())))
    if "benchmark" in kinds:
        return "benchmark"
    return min(kinds, key=[*KINDS.values()].index)


def _of_keys(written: Iterable[str]) -> str:
    """The kind of a spec with these keys, as far as they tell."""
    keys = {key.partition(".")[0] for key in written} - {"schema", "extends"}
    for kind, spec in (("study", StudySpec), ("experiment", ExperimentSpec)):
        if keys & {*spec.keys()}:
            return kind
    return "benchmark" if keys & {*BenchSpec.keys()} - {*ModelSpec.keys()} else "model"
