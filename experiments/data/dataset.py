"""From a DataSpec to its dataset: texts become a tokenized corpus, pairs of texts become rows of their own, others bring theirs."""

from arch import registry
from arch.contracts import Dataset
from arch.errors import DataError
from experiments.data import corpus, pair_corpus
from experiments.spec import DataSpec


def prepare(data: DataSpec, vocab_size: int) -> Dataset:
    """The Dataset of a resolved DataSpec for a model of `vocab_size` tokens. Raises DataError if it cannot be used."""
    source = registry.component("source", data.source["type"])
    if not gives_rows(source):
        gives = "pairs of texts" if gives_pairs(source) else "texts"
        if data.tokenizer is None:
            raise DataError(f"missing: the source {data.source['type']} gives {gives}", key=("data", "tokenizer"))
        made: Dataset = (pair_corpus if gives_pairs(source) else corpus).prepare(data, vocab_size)
        return made
    if getattr(source, "tokenizes", False):
        if data.tokenizer is None:
            raise DataError(f"missing: the source {data.source['type']} makes its rows from texts", key=("data", "tokenizer"))
    elif data.tokenizer is not None:
        raise DataError(f"the source {data.source['type']} gives tokens, not texts; expected none", key=("data", "tokenizer"))
    dataset: Dataset = registry.build("source", data.source).dataset(data)
    if dataset.vocabulary > vocab_size:
        reason = f"the source {data.source['type']} has {dataset.vocabulary:,} tokens but model.vocab_size is {vocab_size:,}"
        raise DataError(reason, key=("model", "vocab_size"))
    return dataset


def gives_rows(source: type) -> bool:
    """Whether a source's class brings its own dataset instead of texts."""
    return hasattr(source, "dataset")


def gives_pairs(source: type) -> bool:
    """Whether a source's class gives pairs of texts."""
    return hasattr(source, "pairs")
