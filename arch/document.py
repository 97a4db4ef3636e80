"""Spec files as nested plain data in which every value remembers the file and line it came from.

A file or a mapping can extend another spec (`extends:`), and a dotted key can override a single value. All of this
happens here, before validation, so that an error can name the line that caused it.
"""

import codecs
import difflib
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, SequenceNode

from arch.errors import SpecError, nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
# YAML's own tags begin so; those of scalars that a spec may hold.
CORE = "tag:yaml.org,2002:"
SCALARS = {"null", "bool", "int", "float", "str", "value"}
LONGEST_SHOWN = 40
ROOT = Path(__file__).resolve().parent.parent
# {kind of spec: the folder of its shipped specs}
SHELVES = {kind: ROOT / kind / "specs" for kind in ("arch", "experiments", "sweeps")}
SHELVES["bench"] = ROOT / "experiments" / "bench" / "specs"


@dataclass(frozen=True)
class Node:
    """A value of a spec file (a mapping of nodes, a list of nodes or a scalar) with its file and line."""

    value: Any
    file: str | None = None
    line: int | None = None

    def plain(self):
        """The value as plain data, without files and lines."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def at(self, path):
        """The node at `path`, or the nearest one above it that exists."""
        node = self
        for part in path:
            if (isinstance(node.value, dict) and part in node.value) or (
                isinstance(node.value, list) and isinstance(part, int) and part < len(node.value)
            ):
                node = node.value[part]
            else:
                break
        return node

    def error(self, reason, path=()):
        """A SpecError at `path` below this node, with the file and line found there."""
        place = self.at(path)
        return SpecError(reason, path, place.file, place.line)


def node(value, file=None, line=None):
    """Plain data as a Node; a Node is returned unchanged."""
    if isinstance(value, Node):
        return value
    if isinstance(value, dict):
        value = {key: node(child, file, line) for key, child in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [node(child, file, line) for child in value]
    return Node(value, file, line)


def lay(base, top):
    """Override `base` with `top`: mappings are merged key by key, any other value is replaced.

    Where `top` names a different component `type`, the old component's options are dropped, not inherited. A mapping of which
    the command line changes a part stays at its place: what is wrong with the rest of it is not the command line's fault.
    """
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    if "type" in top.value and "type" in base.value and top.value["type"].value != base.value["type"].value:
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = lay(merged[key], child) if key in merged else child
    place = base if top.line is None and base.line is not None else top
    return Node(merged, place.file, place.line)


def override(base, dotted, top):
    """Override the value at a dotted key, such as `model.blocks.local.mixer.window`, with the node `top`."""
    for part in reversed(dotted.split(".")):
        top = Node({part: top}, top.file, top.line)
    return lay(base, top)


def overridden(base, overrides):
    """`base` with every `dotted key: value` of the mapping node `overrides` applied."""
    for dotted, top in overrides.value.items():
        base = override(base, dotted, top)
    return base


def assignments(texts):
    """`KEY=VALUE` texts of a command line as a node {dotted key: value} for `overridden`. A value is written as in YAML.

    Errors name the text in place of a file. Raises SpecError for a text of another form and for what is not YAML.
    """
    values = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        shown = f"--set {text}"
        if not (key and equals):
            raise SpecError("expected KEY=VALUE", file=shown)
        if key in values:
            raise SpecError(f"{key} is set twice; expected it once", file=shown)
        try:
            _check_depth(value, shown)
            tree = YAML(typ="safe", pure=True).compose(value)
            values[key] = Node(None, shown) if tree is None else _without_lines(_node(tree, shown, ()))
        except YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise SpecError(f"not valid YAML: {problem}", file=shown) from None
        except SpecError as error:
            raise SpecError(error.reason, (key, *error.path), shown) from None
    return Node(values)


# Keys that the command line cannot change: what they mean is over before a value is overridden.
OF_FILES = {"extends": "a file says what it extends", "scales": "--scale chooses one of them", "schema": "a file says its form"}


def changes_of(texts):
    """`assignments` of a whole spec. Raises SpecError for a key in OF_FILES, and for one that lies inside another: which of the
    two counts would depend on their order.
    """
    values = assignments(texts)
    for key, value in values.value.items():
        if why := OF_FILES.get(key.partition(".")[0]):
            raise SpecError(f"{key} cannot be set on the command line: {why}", file=value.file)
        if around := next((other for other in values.value if key.startswith(f"{other}.")), None):
            raise SpecError(f"`{around}` is set as well; expected one of the two", file=value.file)
    return values


def shipped(kind):
    """Names, without `.yaml`, of the specs shipped with the package `kind`; `_NAME.yaml` only serves as a base."""
    shelf = SHELVES[kind]
    files = [path for path in shelf.rglob("*.yaml") if not path.name.startswith("_")]
    return sorted(str(path.relative_to(shelf).with_suffix("")) for path in files)


def find(reference, kind, beside=None):
    """The file of a spec: a path ending in .yaml (relative to `beside`, else the working folder) or a shipped name.

    `.yaml` may be left out where no shipped spec has this name.

    A shipped name may begin with the package it belongs to (`experiments/tiny_gemma3`); without one it is looked up
    among the specs of `kind`. Raises SpecError with the nearest names.
    """
    if not isinstance(reference, str):
        raise SpecError(f"expected the name or path of a spec, got {node(reference).plain()!r}")
    if reference.endswith((".yaml", ".yml")):
        path = (Path(beside).parent if beside else Path()) / Path(reference).expanduser()
        if not path.is_file():
            raise absent(reference, shipped(kind), beside)
        return path
    first, _, rest = reference.partition("/")
    kind, name = (first, rest) if first in SHELVES and rest else (kind, reference)
    path = SHELVES[kind] / f"{name}.yaml"
    if name not in shipped(kind):
        if (near := (Path(beside).parent if beside else Path()) / f"{reference}.yaml").is_file():
            return near
        raise absent(reference, shipped(kind), beside)
    return path


def absent(reference, known, beside=None):
    """The SpecError about a reference that names no spec. known: the shipped names that could be meant."""
    folder = Path(beside).parent if beside else Path()
    path = folder / os.path.expanduser(reference)
    if not reference.strip():
        return SpecError("the name of the spec is empty; expected a shipped name or a path ending in .yaml")
    if os.path.exists(path):
        what = "a folder and no spec" if os.path.isdir(path) else "there, but is no YAML spec"
        return SpecError(f"{reference} is {what}; expected a file whose name ends in .yaml, or a shipped name")
    if reference.endswith((".yaml", ".yml")):
        return SpecError(f"no such file: {path}{_meant(reference, path.parent)}")
    first, _, rest = reference.partition("/")
    name = rest if first in SHELVES and rest else reference
    return SpecError(f"no shipped spec {reference!r} (a path must end in .yaml){nearest(name, known)}")


def _meant(reference, folder):
    """The end of an error about a missing file: the shipped name, or the file in its folder, that is probably meant."""
    names = [name for kind in SHELVES for each in shipped(kind) for name in (each, f"{kind}/{each}")]
    beside = {os.path.join(os.path.dirname(reference), each.stem): each.name for each in _files(folder)}
    close = difflib.get_close_matches(os.path.splitext(reference)[0], [*beside, *names], n=1, cutoff=0.8)
    if not close:
        return ""
    near = os.path.join(os.path.dirname(reference), beside[close[0]]) if close[0] in beside else close[0]
    return f"; did you mean {near!r}?"


def _files(folder):
    """The YAML files in a folder; none where it cannot be listed."""
    try:
        return sorted(each for each in folder.iterdir() if each.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return []


def load(reference, kind, changes=()):
    """A complete spec as a Node, with every `extends:` resolved. changes: KEY=VALUE texts that override it. Raises SpecError."""
    return overridden(_load(find(reference, kind), kind, ()), changes_of(changes))


def _load(path, kind, above):
    resolved = path.resolve()
    if resolved in above:
        chain = " -> ".join(str(p.name) for p in (*above, resolved))
        raise SpecError(f"circular extends: {chain}", ("extends",), _shown(path), 1)
    return _extended(read(path), kind, path, (*above, resolved))


def _extended(here, kind, path, above):
    """Merge every mapping that has `extends:` over the spec that it names, innermost first."""
    if isinstance(here.value, list):
        return Node([_extended(child, kind, path, above) for child in here.value], here.file, here.line)
    if not isinstance(here.value, dict):
        return here
    children = {
        key: _extended(child, "arch" if key == "model" else kind, path, above)
        for key, child in here.value.items()
        if key != "extends"
    }
    own = Node(children, here.file, here.line)
    if "extends" not in here.value:
        return own
    reference = here.value["extends"]
    try:
        base = _load(find(reference.value, kind, path), kind, above)
    except SpecError as error:
        if error.file is None:
            raise SpecError(error.reason, ("extends",), reference.file, reference.line) from None
        raise
    return lay(base, own)


def read(path):
    """One YAML file as a Node. Raises SpecError for anything but one mapping of unique text keys."""
    shown = _shown(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SpecError(f"{size:,} bytes; a spec may have at most {MAX_BYTES:,}", file=shown, line=1)
    try:
        return _parsed(path.read_text(encoding="utf-8"), shown)
    except UnicodeDecodeError as error:
        utf16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "it is UTF-16" if utf16 else f"byte {error.start}"
        raise SpecError(f"not UTF-8 text ({what})", file=shown, line=1) from None


@functools.lru_cache(maxsize=256)
def _parsed(text, shown):
    """The text of a file as a Node. Kept, since many specs extend the same few, and a Node is never changed. Raises SpecError."""
    try:
        _check_depth(text, shown)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(f"not valid YAML: {error.problem}", file=shown, line=mark.line + 1 if mark else 1) from None
    except YAMLError as error:
        raise SpecError(f"not valid YAML: {str(error).splitlines()[0]}", file=shown, line=1) from None
    if root is None:
        raise SpecError("the file is empty; expected a mapping of keys", file=shown, line=1)
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else "a single value"
        raise SpecError(f"the file is {kind}; expected a mapping of keys", file=shown, line=root.start_mark.line + 1)
    return _node(root, shown, ())


def _check_depth(text, shown):
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise SpecError(
                "YAML anchors are not used in specs; say `like:` or `extends:`", file=shown, line=event.start_mark.line + 1
            )
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise SpecError(f"nested over {MAX_DEPTH} levels deep", file=shown, line=event.start_mark.line + 1)


def _node(tree, shown, path):
    line = tree.start_mark.line + 1
    _check_tag(tree, shown, path, line)
    if isinstance(tree, SequenceNode):
        return Node([_node(child, shown, (*path, i)) for i, child in enumerate(tree.value)], shown, line)
    if not isinstance(tree, MappingNode):
        value = _scalar(tree, shown, path, line)
        if isinstance(value, float) and not math.isfinite(value):
            raise SpecError(f"{tree.value} is not a finite number", path, shown, line)
        return Node(value, shown, line)
    children: dict[str, Node] = {}
    for key_tree, child_tree in tree.value:
        key, key_line = str(getattr(key_tree, "value", "")), key_tree.start_mark.line + 1
        if not isinstance(key_tree.value, str):
            raise SpecError("a key must be a plain word", path, shown, key_line)
        if not key_tree.tag.startswith(CORE):
            raise SpecError(f"specs know no tag {_named(key_tree.tag)}; expected the key itself", (*path, key), shown, key_line)
        if key in children:
            raise SpecError(f"duplicate key; first given on line {children[key].line}", (*path, key), shown, key_line)
        child = _node(child_tree, shown, (*path, key))
        children[key] = Node(child.value, shown, key_line)
    return Node(children, shown, line)


def _check_tag(tree, shown, path, line):
    """Refuse what a tag would make of a value. A tag that says what the value is anyway (`!!str`, `!!map`) is none."""
    known = {MappingNode: {"map"}, SequenceNode: {"seq"}}.get(type(tree), SCALARS)
    if tree.tag.removeprefix(CORE) in known and tree.tag.startswith(CORE):
        return
    if tree.tag == f"{CORE}timestamp":
        reason = f"{tree.value} reads as a date, and no key is one; in quotes it is text"
    else:
        reason = f"specs know no tag {_named(tree.tag)}; expected the value itself"
    raise SpecError(reason, path, shown, line)


def _scalar(tree, shown, path, line):
    if tree.tag == f"{CORE}value":  # a lone `=`, which is text to everybody but YAML 1.1
        return tree.value
    wrong = tree.tag == f"{CORE}null" and tree.value.strip().lower() not in ("", "~", "null")
    try:
        value = SafeConstructor(loader=_loader()).construct_object(tree, deep=True)
    except (YAMLError, ValueError, LookupError):  # ruamel.yaml lets through what Python's int() and float() raise
        wrong = True
    if wrong:
        text = tree.value if len(tree.value) <= LONGEST_SHOWN else f"{tree.value[:LONGEST_SHOWN]}..."
        raise SpecError(f"expected what the tag {_named(tree.tag)} says, got {text!r}", path, shown, line)
    return value


@functools.cache
def _loader():
    """What a constructor asks how YAML reads. Made once: each looks for ruamel.yaml's plug-ins on disk."""
    return YAML(typ="safe", pure=True)


def _named(tag):
    """A tag as one writes it: `!!int` for YAML's own."""
    return f"!!{tag.removeprefix(CORE)}" if tag.startswith(CORE) else tag


def _without_lines(here):
    """A node without line numbers, for text of a command line."""
    if isinstance(here.value, dict):
        return Node({key: _without_lines(child) for key, child in here.value.items()}, here.file)
    if isinstance(here.value, list):
        return Node([_without_lines(child) for child in here.value], here.file)
    return Node(here.value, here.file)


def _shown(path):
    """The path as an error shows it: relative to the working folder for a file below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
