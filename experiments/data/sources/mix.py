"""Several sources of pairs together; every batch comes from one of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from arch import registry
from arch.errors import DataError
from arch.registry import source
from arch.spec import Component, Kind, Spec
from experiments.data import texts
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, Part, parts_of


def _pairs_alone(component: dict[str, Any]) -> dict[str, Any]:
    if component["type"] == "mix":
        raise ValueError("mix: expected a source of pairs that is no mixture itself; its parts can stand here")
    return texts.resolved_pairs(component)


class MixedPart(Spec):
    """One part of a mixture.

    source: where its pairs are from, with prompts and hard negatives of its own. weight: a batch comes from it with a probability
    proportional to its weight; of weight 0, it is only measured, and its texts teach the tokenizer.
    """

    source: Annotated[Component, Kind("source"), AfterValidator(_pairs_alone)]
    weight: Annotated[float, Field(ge=0)] = 1.0


def _some(parts: dict[str, MixedPart]) -> dict[str, MixedPart]:
    for name in parts:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ValueError(f"the name {name!r} of a part: expected letters, digits and _")
    if len(parts) < 2 or not any(part.weight for part in parts.values()):
        raise ValueError(f"expected at least two parts, one of them with a weight above 0; got {len(parts)}")
    return parts


@source
class Mix:
    """Pairs of several sources, a batch from one of them alone (EmbeddingGemma, section 2.3).

    Which part a step reads is drawn by weight, a pure function of the seed and the step; each part is read in epochs of its own.
    What is measured has equally many pairs of every part, whatever the weights are, so that mixtures can be compared, and the
    tokenizer learns from all parts.
    """

    class Config(Spec):
        """parts: {name: its source, and its weight}."""

        parts: Annotated[dict[str, MixedPart], AfterValidator(_some)]

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()
        self.sources: dict[str, Any] = {name: registry.build("source", part.source) for name, part in config.parts.items()}

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        written = {name: getattr(each, "texts", self.config.parts[name].source) for name, each in self.sources.items()}
        return {"type": "mix", "parts": {name: {"source": each, "weight": 1.0} for name, each in written.items()}}

    def parts(self) -> dict[str, Part]:
        """The options of each part."""
        return {name: parts_of(each)[""]._replace(weight=self.config.parts[name].weight) for name, each in self.sources.items()}

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs of one part after the other. Raises DataError."""
        self.left_out = LeftOut()
        for name, each in self.sources.items():
            try:
                for pair in each.pairs():
                    yield pair._replace(part=name)
            except DataError as error:
                raise DataError(f"the part {name}: {error}", _within(name, error.key)) from None
            inner = getattr(each, "left_out", LeftOut())
            self.left_out.reasons |= {f"{name}: {reason}": entry for reason, entry in inner.reasons.items()}
            self.left_out.folders |= inner.folders
            self.left_out.remarks += [f"{name}: {remark}" for remark in inner.remarks]

    def files(self) -> list[Path] | None:
        """Every file that `pairs` reads; None where a part cannot say. Raises DataError."""
        found: list[Path] = []
        for each in self.sources.values():
            files = each.files() if hasattr(each, "files") else None
            if files is None:
                return None
            found += files
        return found


def _within(name, key):
    """The key of an error in a part's source, seen from the spec."""
    return None if key is None else ("data", "source", "parts", name, "source", *key[2:])
