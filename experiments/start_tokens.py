"""Whether a run reads the tokens of the runs that it starts from: else row i of the embedding that it takes means another text."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from arch import checkpoint
from arch.contracts import Dataset
from arch.errors import DataError
from arch.tokenizer import read
from experiments.data.dataset import prepare
from experiments.spec import ExperimentSpec
from experiments.start import Parent, Start

if TYPE_CHECKING:
    import tokenizers

    from experiments.plan import RunPlan

# What has a row for each token.
BY_TOKEN = ("embedding", "encoder.embedding", "head.weight")


def of_parent(parent: Parent, plan: "RunPlan | None") -> "tokenizers.Tokenizer | None":
    """The tokenizer of a run that will be made (`plan`), or of a checkpoint's folder; None where it has none, or nobody knows.

    Raises DataError for one that cannot be read.
    """
    if plan is not None:
        return prepare(plan.spec.data, plan.spec.model.vocab_size).tokenizer
    file = Path(parent.folder) / checkpoint.TOKENIZER
    return read(file) if file.is_file() else None


def check(spec: ExperimentSpec, start: Start | None, made: "Mapping[int, RunPlan]", dataset: Dataset) -> None:
    """Raises DataError, at its key, for a parent with other tokens than `dataset` whose embedding or head is taken.

    made: {position in `spec.starts`: RunPlan} of the runs that will be made. Where the vocabularies have different sizes, the
    embedding is drawn anew, and any tokens will do.
    """
    mine = dataset.tokenizer
    if start is None or mine is None or not (kept := [name for name in BY_TOKEN if name in start.taken]):
        return
    vocabulary = mine.get_vocab()
    for i, ((key, _), parent) in enumerate(zip(spec.starts, start.all_parents, strict=True)):
        theirs = of_parent(parent, made.get(i))
        if theirs is not None and theirs.get_vocab() != vocabulary:
            other = sum(vocabulary.get(token) != number for token, number in theirs.get_vocab().items())
            name = parent.folder or f"the run {parent.name!r}"
            raise DataError(
                f"{name} reads other tokens: of its {theirs.get_vocab_size():,} tokens, {other:,} are none of this run's or have "
                f"another number, and {kept[0]} would be taken; expected the same tokenizer (`data.tokenizer.learned_from`, or "
                "`type: file`)",
                key=key,
            )
