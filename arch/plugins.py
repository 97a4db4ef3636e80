"""Components of a user's own: how their names look, and the digests of their sources, which are part of identity."""

import ast
import hashlib
import importlib.util
from pathlib import Path

# Their code is the code version of a record, not part of an identity.
OUR_PACKAGES = ("arch", "experiments", "sweeps")


def is_plugin(name):
    """Whether `name` is the import path of a user's own component: it has a dot or a colon."""
    return "." in name or ":" in name


def plugin_sources(data):
    """`{module: sha256 of its source}` for every user component named anywhere in a resolved spec.

    It includes the modules that a component imports from its own package or its own folder.
    """
    found: dict[str, str] = {}
    for name in _plugins(data):
        module = name.partition(":")[0]
        path = Path(str(importlib.util.find_spec(module).origin))  # type: ignore[union-attr]  # its name was checked
        _add_source(module, path.parents[module.count(".") + (path.name == "__init__.py")], found)
    return found


def _plugins(data):
    if isinstance(data, dict):
        if isinstance(data.get("type"), str) and is_plugin(data["type"]):
            yield data["type"]
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        for child in data:
            yield from _plugins(child)


def _add_source(module, folder, found):
    """Add the module's digest to `found`, and those of the modules below `folder` that it imports, recursively."""
    path = _source_file(module, folder)
    if path is None or module in found or module.partition(".")[0] in OUR_PACKAGES:
        return
    source = path.read_bytes()
    found[module] = hashlib.sha256(source).hexdigest()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                _add_source(alias.name, folder, found)
        elif isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            origin = ".".join([*filter(None, above), *filter(None, [statement.module])])
            for name in (origin, *(f"{origin}.{alias.name}" for alias in statement.names)):
                _add_source(name, folder, found)


def _source_file(module, folder):
    """The file of a module if it lies below `folder`, else None."""
    base = folder.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
