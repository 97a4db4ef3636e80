"""A pair of texts, and the options that every source of pairs has: prompts and hard negatives."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from arch.errors import DataError
from arch.spec import Count, Positive, Spec

# The kinds of texts, each with a prompt of its own: queries, and what is found for them (positives, hard negatives).
KINDS = ("query", "document")


class Pair(NamedTuple):
    """A query, its positive and its hard negatives, as texts without prompts.

    group: all pairs of a group are in the same split (a module, a page); empty: the positive is the group. label: what a
    probe may predict. part: the part of a mixture that it is of.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    group: str = ""
    label: str = ""
    part: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The query, the positive, the hard negatives."""
        return (self.query, self.positive, *self.negatives)


class Prompts(Spec):
    """What stands in front of a text, part of the input and of the pool. By default EmbeddingGemma's two for retrieval.

    query: of queries. document: of positives and hard negatives.
    """

    query: str = "task: search result | query: "
    document: str = "title: none | text: "


class Negatives(Spec):
    """Hard negatives, mined for the training pairs among the other positives of the train split.

    by: what says how near a text is to a query: `bm25`, or the vectors of an `encoder`. k: hard negatives per pair. below: the
    most that a negative's score may be, as a share of the positive's, because what is nearer may be right too; null: any score.
    checkpoint: the folder of the encoder.
    """

    by: Literal["bm25", "encoder"] = "bm25"
    k: Count = 1
    below: Positive | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _an_encoder_is_a_checkpoint(self):
        if (self.checkpoint is None) == (self.by == "encoder"):
            raise ValueError("checkpoint: `by: encoder` needs the folder of an encoder; `by: bm25` takes none")
        return self


class PairOptions(Spec):
    """The options that every source of pairs has.

    prompts: what stands in front of queries and of documents. negatives: hard negatives to be mined; null: none.
    """

    prompts: Prompts = Prompts()
    negatives: Negatives | None = None


class Part(NamedTuple):
    """One part of a dataset of pairs. weight: a batch comes from it with a probability proportional to it."""

    prompts: Prompts = Prompts()
    negatives: Negatives | None = None
    weight: float = 1.0


def parts_of(source: Any) -> dict[str, Part]:
    """{name: Part} of a source of pairs. One without `parts` is one part, whose name is empty."""
    if hasattr(source, "parts"):
        found: dict[str, Part] = source.parts()
        return found
    config = source.config
    return {"": Part(getattr(config, "prompts", Prompts()), getattr(config, "negatives", None))}


def bare(kind: str, config: Spec) -> dict[str, Any]:
    """The resolved source with these options, without those that do not decide its texts: for `Source.texts`."""
    return {"type": kind, **{key: value for key, value in config.dump().items() if key not in PairOptions.model_fields}}


def check(pair: Pair, name: str) -> None:
    """Raises DataError, which begins with `name`, for a pair with an empty text or one that is not Unicode."""
    for kind, text in zip(("query", "positive", *["negative"] * len(pair.negatives)), pair.texts, strict=True):
        if not text.strip():
            raise DataError(f"{name}: the {kind} is empty; expected text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: the {kind} is not Unicode text: half a surrogate pair at character {error.start:,}") from None
