"""Documents planted in the training texts of another source, each a given number of times: what does a model learn by heart?"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from arch import registry
from arch.errors import DataError
from arch.registry import source
from arch.spec import Component, Count, Kind, List, Spec
from arch.words import listed
from experiments.data import texts
from experiments.data.left_out import LeftOut
from experiments.data.split import split_of

# An excerpt is taken from documents of so many times its length, a third of the way in: beginnings are alike (licences, imports).
ROOM, PLACE = 4, 3
# Documents that are looked at for each excerpt that is needed.
TRIES = 8


def _ascending(numbers: Any) -> Any:
    if list(numbers) != sorted({*numbers}):
        raise ValueError(
            f"expected different numbers, ascending, got {list(numbers)}; those that are never trained are always there"
        )
    return numbers


@source
class Planted:
    """The texts of `into`, in whose training split excerpts are planted: `documents` of them R times for each R of `repetitions`.

    An excerpt is `characters` long, from the middle of a document of `into` that is taken out for it, so that it stands
    nowhere else. As many further excerpts are planted nowhere: of the same distribution, and no run trains on them. The
    evaluator `memorization` measures both. Which documents are taken, and where copies stand (spread evenly over the
    others), follows from their content alone.
    """

    # Copies are no further text for a tokenizer to learn from: it would spell often planted documents in fewer tokens.
    repeats = True

    class Config(Spec):
        """into: the source of the texts. repetitions: how often the excerpts of each group are planted.

        documents: excerpts of each group. characters: of an excerpt. most: about how many characters of `into` are trained on;
        by default all. Each copy is read once per pass over the training split, so a run that is to see R copies of a document
        should read the split once: choose `most` so.
        """

        into: Annotated[Component, Kind("source"), AfterValidator(texts.resolved)]
        repetitions: Annotated[List[Count], Field(min_length=1), AfterValidator(_ascending)] = (1, 4, 16, 64)
        documents: Count = 16
        characters: Annotated[int, Field(ge=32)] = 256
        most: Count | None = None

        @classmethod
        def examples(cls):
            return [cls(into={"type": "python_stdlib", "tests": False})]

    def __init__(self, config: Config):
        self.config = config
        self.inner = registry.build("source", config.into)
        self.left_out = LeftOut()
        if hasattr(self.inner, "files"):
            self.files = self.inner.files

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yields (name, text): the documents of `into` that are left, and the copies between them. Raises DataError."""
        kept, groups = self._chosen()
        self._say(groups)
        copies = sorted(
            (_place(f"{number} {text}"), f"planted {number} of {repetitions} times", text)
            for repetitions, excerpts in groups.items()
            for text in excerpts
            for number in range(1, repetitions + 1)
        )
        for at, document in enumerate(kept):
            while copies and copies[0][0] * len(kept) <= at:
                yield copies.pop(0)[1:]
            yield document
        for _, name, text in copies:
            yield name, text

    def planted(self) -> dict[int, list[str]]:
        """{repetitions: the excerpts that are planted so often}; those of 0 are planted nowhere. Raises DataError."""
        return self._chosen()[1]

    def _chosen(self):
        """([(name, text)] of the documents that are left, `planted`)"""
        documents = list(dict.fromkeys(self.inner.documents()))
        length, groups = self.config.characters, (0, *self.config.repetitions)
        needed = len(groups) * self.config.documents
        long = sorted((each for each in documents if len(each[1]) >= ROOM * length), key=lambda each: _digest(each[1]))
        everything = "\n".join(text for _, text in documents)
        taken: dict[str, str] = {}
        for name, text in long[: TRIES * needed]:
            excerpt = _excerpt(text, length)
            if len(taken) < needed and split_of(_digest(excerpt)) == "train" and everything.count(excerpt) == 1:
                taken[name] = excerpt
        if len(taken) < needed:
            kind = self.config.into["type"]
            raise DataError(
                f"{kind} has {len(taken)} documents for excerpts of {length} characters (of at least {ROOM * length}, with text "
                f"that stands nowhere else); expected {needed}, {self.config.documents} for each of {len(groups)} groups",
                key=("data", "source", "documents"),
            )
        # Of any length of the list, every group has one of each `len(groups)` that follow each other.
        excerpts = list(taken.values())
        return self._limited([each for each in documents if each[0] not in taken]), {
            repetitions: excerpts[i :: len(groups)] for i, repetitions in enumerate(groups)
        }

    def _limited(self, documents):
        """The documents of which about `most` characters are trained on; the other splits keep all of theirs."""
        if self.config.most is None:
            return documents
        left, out = self.config.most, set()
        for name, text in sorted(documents, key=lambda each: _digest(each[1])[::-1]):
            if split_of(_digest(text)) == "train":
                left -= len(text)
                if left < 0:
                    out.add(name)
        return [each for each in documents if each[0] not in out]

    def _say(self, groups):
        """What `into` left out, and what is planted."""
        inner = getattr(self.inner, "left_out", LeftOut())
        self.left_out.reasons, self.left_out.folders = inner.reasons, inner.folders
        times = listed([f"{repetitions}" for repetitions in groups if repetitions])
        said = (
            f"planted: excerpts of {self.config.characters} characters, {self.config.documents} each {times} times; "
            f"{len(groups[0])} more are never trained"
        )
        self.left_out.remarks = [*inner.remarks, said]


def _excerpt(text, length):
    """So many characters from the first line that begins a third of the way in; from there, if no such line is long enough."""
    third = len(text) // PLACE
    line = text.find("\n", third) + 1
    begin = line if third < line <= len(text) - length else third
    return text[begin : begin + length]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _place(text: str) -> float:
    return int.from_bytes(_digest(text)[:8], "big") / 2**64
