"""From a source to tokens on disk: read, split by document, tokenize once, and give out batches.

Documents are held in memory while a corpus is prepared; its tokens are memory-mapped afterwards. How rows are made
from documents is `experiments.data.packing`'s rule.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tokenizers
from rich.console import Console
from rich.progress import track

from arch import registry
from arch.errors import DataError
from arch.spec import digest
from experiments.data import cache as cached
from experiments.data.packing import Stream, evaluation_rows, training_rows
from experiments.data.specials import BOS, EOS, UNK, load
from experiments.data.split import FRACTIONS, SPLITS, split_of
from experiments.record import write_atomically

# Raise it when the stored files or the rules of splitting and packing change: old caches are then not read.
FORMAT = 1
# Documents handed to the tokenizer at once: enough to keep every core busy, few enough that little is held twice.
CHUNK = 64


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three splits of tokens. `fingerprint` (hex) covers the texts in order, the split rule and the tokenizer's content.

    `byte_lengths`: (V,) int64, the UTF-8 bytes each token stands for, 0 for specials; V is the tokenizer's vocabulary.
    `sizes`: documents, tokens (`<bos>` and `<eos>` among them) and UTF-8 bytes of each split. `source`: its name.
    """

    fingerprint: str
    source: str
    tokenizer: tokenizers.Tokenizer
    byte_lengths: np.ndarray
    sizes: dict[str, dict[str, int]]
    streams: dict[str, Stream]

    def rows(self, split, context):
        """Number of rows of `context` tokens in a split."""
        return self.streams[split].rows(context)

    def batch(self, split, step, seed, rows, context):
        """The Batch (`rows`, `context`) of step `step` (from 0): a pure function of the corpus and the arguments.

        Raises DataError if the split has no whole row.
        """
        self._check_context(split, context)
        numbers = training_rows(self.rows(split, context), step, seed, rows)
        return self.streams[split].batch(numbers, context)

    def evaluation(self, split, rows, context, batch_rows):
        """Yields Batches of at most `batch_rows` rows: the same `rows` rows in all for every arm and every seed.

        Where the split has fewer, all of them. Raises DataError if it has no whole row.
        """
        self._check_context(split, context)
        numbers = evaluation_rows(self.rows(split, context), rows)
        for first in range(0, len(numbers), batch_rows):
            yield self.streams[split].batch(numbers[first : first + batch_rows], context)

    def summary(self):
        """Plain data for a run's record: fingerprint, source, vocabulary and the sizes of each split."""
        return {
            "fingerprint": self.fingerprint,
            "source": self.source,
            "vocabulary": self.tokenizer.get_vocab_size(),
            "splits": {split: dict(sizes) for split, sizes in self.sizes.items()},
        }

    def save_tokenizer(self, folder):
        """Write `tokenizer.json` into a run's folder."""
        write_atomically(Path(folder) / "tokenizer.json", self.tokenizer.to_str(pretty=True).encode())

    def _check_context(self, split, context):
        if self.rows(split, context) == 0:
            sizes = self.sizes[split]
            raise DataError(
                f"context {context:,} is longer than the {split} split's {sizes['tokens']:,} tokens "
                f"({sizes['documents']} documents of the source {self.source}); expected at least one whole row in every "
                f"split: give more text or a shorter context",
                key=("data", "context"),
            )


@dataclass(frozen=True)
class _Document:
    text: str
    digest: bytes
    bytes: int


def prepare(data, vocab_size, cache=None):
    """The Corpus of a resolved DataSpec, tokenized now if no earlier run did; for a model of `vocab_size` tokens.

    `cache`: the folder that prepared corpora lie in, by default `cache.root()`. They are keyed by the texts, the
    tokenizer's options and, where it is not trained but read, its `content()`, so a changed file is a new corpus, and
    two processes may prepare the same one.
    Raises DataError for anything about the data that cannot be used.
    """
    source = data.source["type"]
    documents = _read(data.source)
    splits = {split: [item for item in documents if split_of(item.digest) == split] for split in SPLITS}
    _check_splits(splits, source)
    texts = hashlib.sha256(b"".join(item.digest for item in documents)).hexdigest()
    fixed = getattr(registry.build("tokenizer", data.tokenizer), "content", None)
    key = digest(
        {
            "format": FORMAT,
            "texts": texts,
            "fractions": FRACTIONS,
            "tokenizer": data.tokenizer,
            "plugins": registry.plugin_sources(data.tokenizer),
            "library": tokenizers.__version__,
        }
        | ({"content": fixed()} if fixed else {})
    )
    folder = cached.obtain(cache or cached.root(), key, lambda scratch: _build(splits, texts, data.tokenizer, scratch))
    corpus = _open(folder, source)
    _check_vocabulary(corpus, data.tokenizer, vocab_size)
    for split in SPLITS:
        corpus._check_context(split, data.context)
    return corpus


def _read(source):
    documents = []
    for name, text in registry.build("source", source).documents():
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: not Unicode text: half a surrogate pair at character {error.start:,}") from None
        documents.append(_Document(text, hashlib.sha256(content).digest(), len(content)))
    if not documents:
        raise DataError(f"the source {source['type']} has no text at all")
    return documents


def _check_splits(splits, source):
    for split, documents in splits.items():
        if not documents:
            count = sum(map(len, splits.values()))
            shares = ", ".join(f"{fraction:.0%} {name}" for name, fraction in FRACTIONS.items())
            raise DataError(
                f"the {split} split has no document: the source {source} has {count}, and they are split whole, by content "
                f"({shares}); give more documents (100 or so), or cut text files into documents with `separator`"
            )


def _check_vocabulary(corpus, tokenizer, vocab_size):
    size = corpus.tokenizer.get_vocab_size()
    if size > vocab_size:
        other = " or lower data.tokenizer.vocab_size" if "vocab_size" in tokenizer else " or use another data.tokenizer"
        raise DataError(
            f"the tokenizer {tokenizer['type']} has {size:,} tokens but model.vocab_size is {vocab_size:,}: "
            f"raise model.vocab_size to at least {size}{other}",
            key=("model", "vocab_size"),
        )


def _build(splits, texts, tokenizer, folder):
    """Train the tokenizer on the train split and write every split's tokens into `folder`."""
    component = registry.build("tokenizer", tokenizer)
    console = Console(stderr=True)
    with console.status(f"Preparing the tokenizer {tokenizer['type']}"):
        trained = component.train([item.text for item in splits["train"]])
    lengths = component.byte_lengths(trained)
    content = trained.to_str(pretty=True)
    sizes = {}
    for split, documents in splits.items():
        chunks = [documents[first : first + CHUNK] for first in range(0, len(documents), CHUNK)]
        shown = track(chunks, f"Tokenizing {split}", console=console, transient=True, disable=not console.is_terminal)
        stream = _stream(shown, trained)
        _check_lengths(tokenizer, trained, lengths, stream, documents)
        np.save(folder / f"{split}.tokens.npy", stream.tokens)
        np.save(folder / f"{split}.starts.npy", stream.starts)
        total = sum(item.bytes for item in documents)
        sizes[split] = {"documents": len(documents), "tokens": len(stream.tokens), "bytes": total}
    np.save(folder / "byte_lengths.npy", lengths)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    fingerprint = digest({"format": FORMAT, "texts": texts, "fractions": FRACTIONS, "tokenizer": content})
    (folder / "corpus.json").write_text(json.dumps({"fingerprint": fingerprint, "sizes": sizes}, indent=1))
    # The library used threads; a fork of this process would warn of a deadlock at its first use unless told not to.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _stream(chunks, tokenizer):
    """Lists of documents as one Stream, `<bos>` and `<eos>` around each; it depends neither on their size nor on threads."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    bos, eos = (tokenizer.token_to_id(special) for special in (BOS, EOS))
    pieces = []
    for chunk in chunks:
        encodings = tokenizer.encode_batch_fast([item.text for item in chunk], add_special_tokens=False)
        pieces.extend(np.array([bos, *encoding.ids, eos], dtype=dtype) for encoding in encodings)
    starts = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Stream(np.concatenate(pieces), starts)


def _check_lengths(name, tokenizer, lengths, stream, documents):
    """Bits per byte rest on the tokens of a document standing for all its bytes: check it, wherever nothing is unknown."""
    unknown = tokenizer.token_to_id(UNK)
    for document, (first, last) in zip(documents, pairwise(stream.starts), strict=True):
        tokens = stream.tokens[first:last]
        if (total := int(lengths[tokens].sum())) != document.bytes and not (unknown is not None and (tokens == unknown).any()):
            raise DataError(f"the tokenizer {name['type']} gives tokens for {total:,} bytes of a text that has {document.bytes:,}")


def _open(folder, source):
    try:
        known = json.loads((folder / "corpus.json").read_text())
        streams = {
            split: Stream(np.load(folder / f"{split}.tokens.npy", mmap_mode="r"), np.load(folder / f"{split}.starts.npy"))
            for split in SPLITS
        }
        lengths = np.load(folder / "byte_lengths.npy")
        for split, stream in streams.items():
            if len(stream.tokens) != known["sizes"][split]["tokens"] or stream.starts[-1] != len(stream.tokens):
                raise ValueError(f"{split}: not the tokens that were stored")
        return Corpus(known["fingerprint"], source, load(folder / "tokenizer.json"), lengths, known["sizes"], streams)
    except (OSError, ValueError, KeyError, DataError) as error:
        raise DataError(f"{folder}: the token cache is damaged ({error}); delete this folder and start again") from None
