"""Docstrings and the functions that they describe: pairs of English and code that every machine already has."""

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from arch import registry
from arch.errors import DataError
from arch.registry import source
from arch.spec import List, later
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, bare
from experiments.data.plain_text import read_text
from experiments.python_source import function_nodes, parsed

LIBRARY = {"type": "python_stdlib", "tests": False}
TESTS = {"test", "tests", "testing", "idle_test"}
LINE_END = re.compile(r"\r\n|\r|\n")  # as Python counts lines
PARAGRAPH_END = re.compile(r"\n\s*\n")
NAME_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
WORDS, CHARACTERS = 5, 60
# What stands for a function's own name in its code, where names are masked.
MASK = "_"
# The group of a function in an installed package: so many first parts of its module's name.
DEPTH = 3


class Function(NamedTuple):
    """A function or method: its name, the first paragraph of its docstring, and its source code without the docstring."""

    name: str
    says: str
    code: str


@source
class Docstrings:
    """The first paragraph of a docstring (the query) and the code of its function or method without it (the positive).

    Of the standard library of the running Python, without its tests, and of installed packages. A paragraph has at least 5
    words and comes once: of functions with the same one, the first is taken. The code has more than 60 characters. All functions
    of a top module are in one split; of an installed package, those of a module like `package.folder.module`. The label is the
    function's module. Another version of Python gives other pairs; a run's record has their digest.

    With `query: name`, the function's name in words is the query, and the paragraph is the positive: a title and its text.
    """

    class Config(PairOptions):
        """packages: installed packages whose functions are read too. names: whether the code keeps its function's own name.

        `masked` puts `_` in its place: else a query that has words of the name is answered without any understanding.
        query: `docstring`; `name` for names of at least two words.
        """

        packages: List[str] = ()
        names: Literal["keep", "masked"] = "keep"
        query: Literal["docstring", "name"] = later("docstring")

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        self.library: Any = registry.build("source", LIBRARY)

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        return bare("docstrings", self.config)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs in the order of the files. Raises DataError for a package that is not installed."""
        self.left_out = LeftOut()
        said: set[str] = set()
        for module, text, group in self.modules():
            try:
                found = functions(text)
            except (SyntaxError, ValueError):
                self.left_out.add("files that are not Python", module)
                continue
            for function in found:
                if len(function.says.split()) < WORDS or len(function.code) <= CHARACTERS:
                    self.left_out.add("functions with a short docstring or short code", f"{module}.{function.name}")
                elif function.says in said:
                    self.left_out.add("functions whose docstring came before", f"{module}.{function.name}")
                else:
                    said.add(function.says)
                    if (texts := self._texts(function)) is None:
                        self.left_out.add("functions whose name is one word", f"{module}.{function.name}")
                    else:
                        query, positive = texts
                        yield Pair(query, positive, group=group, label=module)

    def modules(self) -> Iterator[tuple[str, str, str]]:
        """Yields (module, its text, its group) of every file. Raises DataError."""
        for name, text, depth in self._files():
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield module, text, ".".join(module.split(".")[:depth])

    def _texts(self, function):
        """(query, positive) of a function; None where its name is to be the query and is a single word."""
        if self.config.query == "name":
            words = in_words(function.name)
            return (" ".join(words), function.says) if len(words) > 1 else None
        return function.says, masked(function) if self.config.names == "masked" else function.code

    def files(self) -> list[Path]:
        """Every file that `pairs` reads. Raises DataError."""
        return [*self.library.files(), *(path for package in self.config.packages for _, path in _modules(package))]

    def _library(self):
        """(name, text) of the files of the standard library."""
        return self.library.documents()

    def _files(self):
        """(name, text, parts of the module's name that are the group) of every file."""
        further = [each for package in self.config.packages for each in _modules(package)]
        for name, text in self._library():
            yield name, text, 1
        for name, path in further:
            try:
                yield name, read_text(path), DEPTH
            except DataError:
                self.left_out.add("files that are not UTF-8 text", name)


def functions(text: str) -> list[Function]:
    """The functions and methods of a file's text that have a docstring and further code, in the order of their lines.

    Raises SyntaxError, or ValueError for a NUL character, where the text is not Python.
    """
    tree = parsed(text)
    lines = LINE_END.split(text)
    found = []
    for node in function_nodes(tree):
        says = ast.get_docstring(node, clean=False)
        own_lines = (
            len(node.body) > 1 and node.lineno < node.body[0].lineno and (node.body[0].end_lineno or 0) < node.body[1].lineno
        )
        if says is None or not own_lines:
            continue
        code = [*lines[node.lineno - 1 : node.body[0].lineno - 1], *lines[node.body[0].end_lineno : node.end_lineno]]
        first = PARAGRAPH_END.split(inspect.cleandoc(says), maxsplit=1)[0]
        found.append(Function(node.name, " ".join(first.split()), textwrap.dedent("\n".join(code)).strip()))
    return found


def masked(function: Function) -> str:
    """The code of a function with `_` wherever its own name stands."""
    return re.sub(rf"\b{re.escape(function.name)}\b", MASK, function.code)


def in_words(name: str) -> list[str]:
    """The words of a name, in small letters: `readHTTPHeader_2` is read, http, header, 2."""
    return [word.lower() for word in NAME_WORDS.findall(name)]


def _modules(package):
    """[(path from the package's folder on, the file)] of an installed package, sorted, without tests. Raises DataError."""
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.origin:
        raise DataError(f"{package!r}: no such package is installed here", ("data", "source", "packages"))
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    if not folders:
        return [(Path(found.origin).name, Path(found.origin))] if found.origin.endswith(".py") else []
    paths = [(path.relative_to(folder.parent), path) for folder in folders for path in folder.rglob("*.py")]
    return [(name.as_posix(), path) for name, path in sorted(paths) if TESTS.isdisjoint(name.parts)]
