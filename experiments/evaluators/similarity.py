"""Whether cosines of texts are in the order of their relatedness: Spearman's correlation, with labels and groups as the grades.

Shapes: N texts, M pairs of texts, E numbers of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from arch.contracts import Chart, Findings, Given, Metric
from arch.errors import SpecError
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Spec
from arch.words import listed
from experiments.collection import in_order
from experiments.data.pair import Pair
from experiments.text_vectors import of_parts

CORRELATION = Metric(better="higher", compare="difference", any_tokenizer=True)
# Of two texts: of other groups, of one group with other labels, of one label.
GRADES = {0: "another group", 1: "one group, another label", 2: "one label"}

# Vectors are float32, so cosines that are equal up to these digits are equal: the last ones would rank by rounding.
DIGITS = 6

BY_GRADE = Chart(
    kind="curve",
    x="grade",
    y="cosine",
    title="Mean cosine of two texts by how related they are",
    labels={"grade": "0: other groups, 1: one group, 2: one label", "cosine": "cosine"},
)


@evaluator
class Similarity:
    """How well the cosine of two texts tells how related they are (semantic textual similarity, STS), graded by what data say of
    them: 2 for texts of one label (of docstrings: a module), 1 for texts of one group (a top module) with different labels, 0 for
    texts of different groups.

    `similarity_spearman`: the correlation of ranks over pairs of texts, as STS benchmarks give it; equal values share the mean of
    their ranks. `similarity_pearson`: of the values. Each text is compared with one text of each grade that the split has for it.
    """

    class Config(Spec):
        """of: whether queries or documents are compared. rows: how many texts, at most, chosen by their digest. context: the most
        tokens of a text, by default `data.context`.
        """

        of: Literal["query", "document"] = "document"
        rows: Annotated[int, Field(ge=2)] = 1024
        context: Annotated[int, Field(ge=2)] | None = None

    needs = frozenset({"encodes", "pairs"})
    metrics = {"similarity_spearman": CORRELATION, "similarity_pearson": CORRELATION}
    charts = (BY_GRADE,)

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Any, split: str) -> None:
        """Raises SpecError where the pairs of a split give fewer than two grades."""
        grades = {grade for _, _, grade in self._compared(self._texts(dataset.pairs(split)))}
        if len(grades) < 2:
            there = listed(GRADES[grade] for grade in sorted(grades)) or "none"
            raise SpecError(
                f"texts of two grades are compared, but the {split} split has {there}; expected labels or groups that differ"
            )

    def __call__(self, model: Model, dataset: Any, given: Given) -> Findings:
        """The correlations, and the mean cosine of each grade."""
        about = self._texts(dataset.pairs(given.split))
        texts = list(about)
        vector_NE = of_parts(model, dataset, about, self.config.of, given, self.config.context)
        first_M, second_M, grade_M = (torch.tensor(column) for column in zip(*self._compared(about), strict=True))
        cosine_M = (vector_NE[first_M] * vector_NE[second_M]).sum(1).round(decimals=DIGITS)
        grade_M = grade_M.double()
        table = [
            {"grade": grade, "what": GRADES[grade], "pairs": int(mine_M.sum()), "cosine": float(cosine_M[mine_M].mean())}
            for grade in GRADES
            if bool((mine_M := grade_M == grade).any())
        ]
        values = {
            "similarity_spearman": correlation(ranks(cosine_M), ranks(grade_M)),
            "similarity_pearson": correlation(cosine_M, grade_M),
        }
        return Findings(values, table, text=f"{len(grade_M):,} pairs of {len(texts):,} texts")

    def _texts(self, pairs: Sequence[Pair]) -> dict[str, Pair]:
        """{text: the first pair that it is of}, of the first `rows` texts in the order of their digests."""
        return dict(islice(in_order(pairs, self.config.of).items(), self.config.rows))

    def _compared(self, about: Mapping[str, Pair]) -> Iterator[tuple[int, int, int]]:
        """Yields (number of a text, number of another one, grade): for each text the next one of each grade, in the order given."""
        each = list(about.values())
        for i, mine in enumerate(each):
            seen: set[int] = set()
            for step in range(1, len(each)):
                j = (i + step) % len(each)
                grade = graded(mine, each[j])
                if grade not in seen:
                    seen.add(grade)
                    yield i, j, grade
                if len(seen) == len(GRADES):
                    break


def graded(one: Pair, other: Pair) -> int:
    """The grade of two pairs, whose texts are compared (`GRADES`). Without a group, the positive is the group."""
    if one.label and one.label == other.label and one.part == other.part:
        return 2
    group, theirs = ((pair.part, pair.group or pair.positive) for pair in (one, other))
    return int(group == theirs)


def ranks(values_M: Tensor) -> Tensor:
    """(M,) float64: the ranks of values from 1; equal ones share the mean of theirs."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values_M.numpy()))


def correlation(x_M: Tensor, y_M: Tensor) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    x_M, y_M = x_M.double() - x_M.double().mean(), y_M.double() - y_M.double().mean()
    spread = float(x_M.norm() * y_M.norm())
    return float(x_M @ y_M) / spread if spread > 0 else 0.0
