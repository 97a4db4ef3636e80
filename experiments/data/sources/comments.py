"""Comments and the code below them: pairs of English and code that every machine already has."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arch.registry import source
from arch.spec import List
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, bare
from experiments.data.sources.docstrings import CHARACTERS, LINE_END, WORDS, Docstrings

COMMENT = re.compile(r"(\s*)#+(?!!)\s?(.*)")
WORD = re.compile(r"[A-Za-z][a-z']*")


class Noted(NamedTuple):
    """A comment of one line or several, as one text, and the code below it."""

    says: str
    code: str


@source
class Comments:
    """A comment of the standard library's code, and of installed packages (the query), and the code below it (the positive).

    The comment stands alone on its lines, has at least 5 words of letters, and comes once: of several equal ones, the first is
    taken. The code is what follows at its depth or deeper, up to an empty line or the next comment, and has more than 60
    characters. All comments of a module are in one split, which is that of its `docstrings`. The label is the module. Another
    version of Python gives other pairs; a run's record has their digest.
    """

    class Config(PairOptions):
        """packages: installed packages whose comments are read too."""

        packages: List[str] = ()

        @classmethod
        def examples(cls):
            return [cls()]

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        self.read = Docstrings(Docstrings.Config(packages=config.packages))

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        return bare("comments", self.config)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs in the order of the files. Raises DataError for a package that is not installed."""
        self.left_out = self.read.left_out = LeftOut()
        said: set[str] = set()
        for module, text, group in self.read.modules():
            for noted in comments(text):
                if len(WORD.findall(noted.says)) < WORDS or len(noted.code) <= CHARACTERS:
                    self.left_out.add("short comments, or with short code", f"{module}: {noted.says}")
                elif noted.says in said:
                    self.left_out.add("comments that came before", f"{module}: {noted.says}")
                else:
                    said.add(noted.says)
                    yield Pair(noted.says, noted.code, group=group, label=module)

    def files(self) -> list[Path]:
        """Every file that `pairs` reads. Raises DataError."""
        return self.read.files()


def comments(text: str) -> Iterator[Noted]:
    """Yields the comments of a file's text that have code below, in the order of their lines.

    Lines decide, and no parser: a line of a longer string that begins with # is taken for a comment too.
    """
    lines = LINE_END.split(text)
    at = 0
    while at < len(lines):
        found = COMMENT.fullmatch(lines[at])
        if found is None:
            at += 1
            continue
        indent, said = found[1], []
        while at < len(lines) and (more := COMMENT.fullmatch(lines[at])) and more[1] == indent:
            said.append(more[2].strip())
            at += 1
        code = []
        for line in lines[at:]:
            if not line.strip() or COMMENT.fullmatch(line) or not line.startswith(indent):
                break
            code.append(line)
        if code and any(said):
            yield Noted(" ".join(" ".join(said).split()), textwrap.dedent("\n".join(code)).strip())
