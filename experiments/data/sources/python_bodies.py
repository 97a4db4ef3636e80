"""Small functions of the standard library: the first line is asked, the body is the answer, and any valid Python is right."""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache

from arch import registry
from arch.errors import DataError
from arch.registry import source
from arch.spec import Count
from experiments.data import exchanges
from experiments.data.exchange import Exchange, ExchangeOptions
from experiments.data.exchanges import Exchanges
from experiments.data.pair_splits import FRACTIONS
from experiments.data.sources.docstrings import LIBRARY, LINE_END
from experiments.data.split import SPLITS, split_of
from experiments.python_source import parsed
from experiments.spec import DataSpec


@source
class PythonBodies:
    """Prompts are the first lines of functions, such as `def close(self):`, answers their bodies, of the running Python's library.

    All functions of a top module are in one split; a first line or a body that another split has stays where it is measured. The
    reward `valid_python` asks whether prompt and answer together parse.
    """

    class Config(ExchangeOptions):
        """characters: the most of a first line and its body together, so that a row can hold them."""

        characters: Count = 120

    tokenizes = answers = True

    def __init__(self, config: Config):
        self.config = config

    def dataset(self, data: DataSpec) -> Exchanges:
        """Raises DataError where a split has no function, a row cannot hold the longest, or a tokenizer has no turns."""
        if empty := [split for split in SPLITS if not self.splits[split]]:
            reason = f"no function of the {empty[0]} split has at most {self.config.characters} characters"
            raise DataError(reason, ("data", "source", "characters"))
        return exchanges.prepare(self, "python_bodies", self.config, data)

    @property
    def splits(self) -> dict[str, list[Exchange]]:
        """{split: its exchanges}, each once."""
        return _splits(self.config.characters)

    def content(self) -> dict[str, str]:
        """A digest of the functions: another version of Python has others."""
        return {"functions": _sha256(repr(self.splits)).hex()}

    def exchange(self, split: str, number: int) -> Exchange:
        """One of the split's functions; the numbers go round."""
        return self.splits[split][number % len(self.splits[split])]

    def longest(self) -> list[Exchange]:
        """All of them: how many tokens a text has, its tokenizer says."""
        return [each for split in SPLITS for each in self.splits[split]]

    def learned_from(self) -> list[str]:
        """Those of the train split."""
        return [f"{each.prompt}\n{each.answer}" for each in self.splits["train"]]

    def count(self, split: str) -> int:
        """How many functions the split has."""
        return len(self.splits[split])


@lru_cache(maxsize=4)  # the arms of a study ask for the same
def _splits(characters):
    found: dict[str, list[Exchange]] = {split: [] for split in SPLITS}
    for name, text in registry.build("source", LIBRARY).documents():
        top = name.split("/")[0].removesuffix(".py")
        found[split_of(_sha256(top), FRACTIONS)] += functions(text, characters)
    kept: dict[str, list[Exchange]] = {}
    seen: set[str] = set()
    for split in reversed(SPLITS):  # what is measured first: it keeps what training has too
        kept[split] = [each for each in dict.fromkeys(found[split]) if not seen & {each.prompt, each.answer}]
        seen |= {text for each in found[split] for text in (each.prompt, each.answer)}
    return kept


def functions(text: str, characters: int) -> list[Exchange]:
    """The functions of a file's text whose first line ends with a colon and that are short enough; [] where it is no Python."""
    try:
        tree = parsed(text)
    except (SyntaxError, ValueError):
        return []
    lines, found = LINE_END.split(text), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.body[0].lineno != node.lineno + 1:
            continue
        first, *body = lines[node.lineno - 1 : node.end_lineno]
        indent = len(first) - len(first.lstrip())
        exchange = Exchange(first[indent:], "\n".join(line[indent:] for line in body))
        if first.rstrip().endswith(":") and len(exchange.prompt) + len(exchange.answer) <= characters and _parses(exchange):
            found.append(exchange)
    return found


def _parses(exchange):
    """Whether it still is Python without what stands around it: a line of a longer string may have less indentation."""
    try:
        parsed(f"{exchange.prompt}\n{exchange.answer}")
    except (SyntaxError, ValueError):
        return False
    return True


def _sha256(text):
    return hashlib.sha256(text.encode()).digest()
