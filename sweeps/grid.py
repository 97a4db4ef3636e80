"""`grid:` of a study: factors with levels, of which every combination is an arm, `W=4 cap=on`.

The arms are written into the study's document, so that every later step sees plain arms, in which each value keeps its line.
The cell of the first levels is the first arm, the baseline. Arms that stand beside the grid follow its cells; one with the
label of a cell adds overrides to it, and null drops the cell (as it drops a level, a factor, or a size of a ladder).
"""

import re
from collections.abc import Iterable

from arch.document import Node, override
from arch.errors import SpecError, nearest
from arch.spec import spelt
from sweeps.contrasts import cell, cells

# A label is `FACTOR=LEVEL FACTOR=LEVEL`, so its names hold neither `=` nor spaces.
AMBIGUOUS = re.compile(r"[=\s]")
FEWEST = 2


def with_cells(root: Node) -> Node:
    """The study's document with an arm for every cell of its grid. Raises SpecError at the line at fault."""
    if "grid" not in root.value:
        return root
    if root.value["grid"].value is None:
        return without(root, "grid")
    factors = _factors(root)
    written = arms_of(root)
    arms: dict[str, Node] = {}
    for label, levels in cells(factors).items():
        parts = [factors[factor][level] for factor, level in levels.items()]
        for node in (part for part in [*parts, written.get(label)] if part is not None):
            before = arms.get(label)
            arms[label] = node if before is None or node.value is None else Node(before.value | node.value, node.file, node.line)
    grid = root.value["grid"]
    others = {label: arm for label, arm in written.items() if label not in arms}
    for label in [label for label in others if "=" in label]:
        if not _drops(grid):
            raise root.error(f"no cell {label!r}{nearest(label, arms)}", ("arms", label))
        del others[label]  # what is said of a cell that this scale has not
    kept = {factor: Node(dict(levels), grid.at((factor,)).file, grid.at((factor,)).line) for factor, levels in factors.items()}
    root = replaced(root, "grid", Node(kept, grid.file, grid.line))
    return replaced(root, "arms", Node(arms | others, grid.file, grid.line))


def _drops(node):
    """Whether a mapping has a null: a factor or a level that is dropped."""
    return node.value is None or (isinstance(node.value, dict) and any(map(_drops, node.value.values())))


def arms_of(root: Node) -> dict[str, Node]:
    """The written arms of a study's document. Raises SpecError unless each is a mapping, or null."""
    arms = root.value.get("arms", Node({}))
    if not isinstance(arms.value, dict):
        raise root.error("expected a mapping of labels to overrides", ("arms",))
    for label, arm in arms.value.items():
        if arm.value is not None and not isinstance(arm.value, dict):
            raise root.error("expected a mapping of dotted keys to values, or null to drop it", ("arms", label))
    return arms.value


def replaced(root: Node, key: str, value: Node) -> Node:
    """The document with another value at a key."""
    return Node({**root.value, key: value}, root.file, root.line)


def without(root: Node, key: str) -> Node:
    """The document without a key."""
    return Node({each: value for each, value in root.value.items() if each != key}, root.file, root.line)


def named(root: Node, path: tuple[str, ...], what: str) -> dict[str, Node]:
    """The entries of the mapping at `path` that are not null, by their names as typed. what: `factor`, `level`, `size`.

    Raises SpecError for anything but a mapping, and for a name that would make labels ambiguous.
    """
    here = root.at(path)
    if not isinstance(here.value, dict):
        raise root.error(f"expected a mapping of {what}s", path)
    kept = {}
    for key, value in here.value.items():
        name = key if isinstance(key, str) else spelt(key)
        if AMBIGUOUS.search(name) or not name:
            raise root.error(f"{name!r} becomes a part of the arms' labels; expected a name without `=` and spaces", (*path, key))
        if value.value is not None:
            kept[name] = value
    return kept


def overrides(root: Node, path: tuple[str, ...], what: str, why: str) -> dict[str, Node]:
    """Like `named`, where every entry is a mapping of overrides and there are at least two. why: what one is good for."""
    entries = named(root, path, what)
    for name, node in entries.items():
        if not isinstance(node.value, dict):
            raise root.error("expected a mapping of dotted keys to values; {} changes nothing", (*path, name))
    if len(entries) < FEWEST:
        only = f"only {next(iter(entries))!r}" if entries else f"no {what}"
        raise root.error(f"{only}; {why} (one that is null is dropped; {{}} is one that changes nothing)", path)
    return entries


def _factors(root: Node) -> dict[str, dict[str, Node]]:
    factors = {}
    names = named(root, ("grid",), "factor")
    if not names:
        raise root.error("no factor; expected {FACTOR: {LEVEL: {...}, LEVEL: {...}}}", ("grid",))
    for factor in names:
        why = "a factor needs two levels; what is the same in every arm belongs to the base experiment"
        factors[factor] = overrides(root, ("grid", factor), "level", why)
        for level, node in factors[factor].items():
            cell({factor: level})
            for earlier in (each for each in factors if each != factor):
                for other, before in factors[earlier].items():
                    refuse_clash(node, f"{factor}={level}", before, f"{earlier}={other}", ("grid", factor, level))
    return factors


def refuse_clash(node: Node, name: str, other: Node, other_name: str, path: tuple[str, ...]) -> None:
    """Raise SpecError, at the line in `node`, where two mappings of overrides override the same value."""
    before = {key: value.line for key, value in _leaves(other)}
    for key, value in _leaves(node):
        for earlier, line in before.items():
            if key == earlier or key.startswith(f"{earlier}.") or earlier.startswith(f"{key}."):
                where = "" if line is None else f" on line {line}"
                reason = f"{name} overrides {key}, and so does {other_name}{where}: one would hide the other"
                raise SpecError(reason, path, value.file, value.line)


def _leaves(node: Node, above: str = "") -> Iterable[tuple[str, Node]]:
    """(dotted key, value) of every single value that a mapping of overrides sets."""
    for key, value in node.value.items():
        dotted = f"{above}{key}"
        if isinstance(value.value, dict) and value.value:
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def set_at(root: Node, label: str, values: dict[str, Node]) -> Node:
    """The study's document with further overrides, {dotted key: value}, of one arm."""
    arm = root.value["arms"].value[label]
    laid = Node({**arm.value, **values}, arm.file, arm.line)
    return override(root, "arms", Node({label: laid}, root.value["arms"].file, root.value["arms"].line))
