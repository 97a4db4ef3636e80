"""A corpus: read a source, split it by document, tokenize it once into files, and serve batches.

Documents are in memory while a corpus is prepared; afterwards its tokens are memory-mapped. `experiments.data.packing`
describes how documents become rows.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import tokenizers
from rich.console import Console
from rich.progress import track

from arch import blame, registry
from arch.errors import DataError
from arch.plugins import plugin_sources
from arch.spec import digest
from experiments.data import cache as cached
from experiments.data import learned, left_out, loss, texts
from experiments.data.batch import Batch
from experiments.data.packing import Stream, evaluation_rows, spread_rows, training_rows
from experiments.data.specials import Ends, ends, load
from experiments.data.split import ALL, FRACTIONS, SPLITS, split_of

# Increase this when the rules for splitting and packing change: then the same texts are other data, and runs on them are
# other runs.
FORMAT = 1
# Increase this when only the stored files change: old caches are not used, and data and runs stay what they are.
FILES = 3
# Documents tokenized at once: enough to keep all cores busy, few enough to keep the extra memory small.
CHUNK = 64
CHANGED = "documents that the tokenizer changes"


@dataclass(frozen=True, eq=False)
class Corpus:
    """The tokens of three splits, with their tokenizer.

    fingerprint: a digest (hex) of the texts in order, the split rule and the tokenizer's content.
    source: the source's type.
    byte_lengths: (V,) int64, the UTF-8 bytes that each token stands for, 0 for specials; V is the vocabulary.
    sizes: {split: {documents, tokens, bytes}}; tokens include `<bos>` and `<eos>`, bytes are UTF-8.
    streams: {split: Stream}. digests: {split: (documents, 8) uint8}, the first bytes of the sha256 of each document's text.
    context: tokens per row of the DataSpec that it was prepared for. made_of: the resolved source.
    vocabulary: the number of token ids, one more than the highest that a document can hold. ends: what stands around
    documents. left_out: what the source left out of its texts (`left_out.LeftOut.summary`), and how many documents the
    tokenizer changes, as `lost`; `on_loss` says what was done with them.
    """

    fingerprint: str
    source: str
    tokenizer: tokenizers.Tokenizer
    byte_lengths: np.ndarray
    sizes: dict[str, dict[str, int]]
    streams: dict[str, Stream]
    digests: dict[str, np.ndarray]
    vocabulary: int
    ends: Ends
    lost: int = 0
    on_loss: str = "refuse"
    left_out: dict[str, Any] = field(default_factory=dict)
    context: int = 0
    made_of: dict[str, Any] = field(default_factory=dict)

    @property
    def begin(self) -> int:
        """The token to begin a text with: `bos`, else `eos`, else the first token of the first document."""
        known = [number for number in (self.ends.bos, self.ends.eos) if number is not None]
        return known[0] if known else int(self.streams["train"].tokens[0])

    @property
    def notes(self) -> list[str]:
        """Sentences about what is left out of the texts, and what was read."""
        return left_out.sentences(self._left_out())

    def _left_out(self):
        """`left_out`, with the documents that the tokenizer changes."""
        return left_out.with_changed(self.left_out, CHANGED, self.lost, self.on_loss)

    def rows(self, split, context):
        """The number of complete rows of `context` tokens in a split."""
        return self.streams[split].rows(context)

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The Batch (`rows`, `context`) of step `step` (from 0): a pure function of the corpus and the arguments.

        Raises DataError if the split has no complete row.
        """
        self._check_context(split, context)
        numbers = training_rows(self.rows(split, context), step, seed, rows)
        return self.streams[split].batch(numbers, context)

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields Batches of at most `batch_rows` rows, `rows` rows in total: the same for every arm and every seed.

        If the split has fewer rows, all of them. The rows of the report split are spread over its documents, because what
        is reported is meant of texts like these; those of the select split are drawn, and tuned values are judged on them.
        Raises DataError if the split has no complete row.
        """
        self._check_context(split, context)
        stream = self.streams[split]
        spread = split == "report"
        numbers = spread_rows(stream.starts, context, rows) if spread else evaluation_rows(stream.rows(context), rows)
        for first in range(0, len(numbers), batch_rows):
            yield stream.batch(numbers[first : first + batch_rows], context, documents=True)

    def long_documents(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields Batches of the first `context` tokens of documents that have so many: `rows` of them, always the same ones.

        If there are fewer such documents, all of them. Raises DataError if there is none.
        """
        stream = self.streams[split]
        lengths = np.diff(stream.starts)
        long = np.flatnonzero(lengths >= context)
        if not len(long):
            raise DataError(
                f"no document of the {split} split has {context:,} tokens; the longest has {lengths.max():,}",
                key=("data", "source"),
            )
        chosen = stream.starts[long[evaluation_rows(len(long), rows)]]
        for first in range(0, len(chosen), batch_rows):
            yield stream.at(chosen[first : first + batch_rows], context, documents=True)

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> np.ndarray:
        """The numbers of all rows that `steps` steps read, ascending, each once: (N,) int64."""
        available = self.rows(split, context)
        return np.unique(training_rows(available, 0, seed, min(steps * rows, available)))

    def numbered(self, split: str, numbers: np.ndarray, context: int) -> Batch:
        """The rows with these numbers (`Rows.key_B`)."""
        return self.streams[split].batch(numbers, context)

    def planted(self) -> dict[int, list[np.ndarray]]:
        """{repetitions: the tokens of each document that its source plants so often}; 0: of those that it holds out.

        A document begins as all do (`<bos>`). Empty for a source that plants nothing.
        """
        before = [] if self.ends.bos is None else [self.ends.bos]
        return {
            repetitions: [
                np.array([*before, *each.ids]) for each in self.tokenizer.encode_batch_fast(excerpts, add_special_tokens=False)
            ]
            for repetitions, excerpts in texts.planted(self.made_of).items()
        }

    def documents(self, split: str) -> list[str]:
        """The name of each document of a split: the first 16 hex digits of the sha256 of its text (UTF-8)."""
        return [row.tobytes().hex() for row in self.digests[split]]

    def summary(self):
        """Plain data for a run's record: fingerprint, source, vocabulary size, the sizes of each split, what was left out."""
        return {
            "fingerprint": self.fingerprint,
            "source": self.source,
            "vocabulary": self.vocabulary,
            "splits": {split: dict(sizes) for split, sizes in self.sizes.items()},
            **self._left_out(),
        }

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
    name: str
    text: str
    digest: bytes
    bytes: int


def prepare(data, vocab_size, cache=None):
    """The Corpus of a resolved DataSpec, for a model of `vocab_size` tokens. Tokenized now unless it is in the cache.

    cache: the folder of prepared corpora, by default `cache.root()`. Its keys cover the texts, the tokenizer's options
    and, for a tokenizer read from a file, the file's content; so a changed file gives a new corpus. Texts are read only
    if `experiments.data.texts` does not know them, or if their tokens are missing. Two processes may prepare the same
    corpus at the same time.
    Raises DataError if the data cannot be used.
    """
    source = data.source["type"]
    fractions = ALL if data.splits == "all" else FRACTIONS
    mark = texts.stamp(data.source)
    documents, known = None, texts.known(mark)
    if known is None:
        documents, about = _read(data.source)
        _split(documents, source, fractions)
        known = {"content": _content(documents), "left_out": about}
        if mark is not None:
            texts.remember({mark: known})
    content = known["content"]
    fixed = getattr(registry.build("tokenizer", data.tokenizer), "content", None)
    key = digest(
        {
            "format": FORMAT,
            "files": FILES,
            "texts": content,
            "fractions": fractions,
            "tokenizer": data.tokenizer,
            "plugins": plugin_sources(data.tokenizer),
            "library": tokenizers.__version__,
        }
        | ({"content": fixed()} if fixed else {})
        | ({"on_loss": data.on_loss} if data.on_loss != "refuse" else {})
        | ({"repeats": True} if _repeats(data.source) else {})
    )

    def build(scratch):
        # The texts are known, but their tokens are not in the cache: a further tokenizer, or an emptied cache.
        held = _read(data.source)[0] if documents is None else documents
        if _content(held) != content:
            raise DataError(f"the texts of the source {source} changed while they were prepared; start again")
        _build(_split(held, source, fractions), content, data, vocab_size, fractions, scratch)

    folder = cached.obtain(cache or cached.root(), key, build)
    corpus = _opened(folder, source)
    learned.check_vocabulary(corpus.tokenizer, corpus.vocabulary, data.tokenizer, vocab_size)
    for split in SPLITS:
        corpus._check_context(split, data.context)
    return replace(corpus, context=data.context, left_out=known["left_out"], on_loss=data.on_loss, made_of=data.source)


def _repeats(source):
    """Whether a source has documents several times on purpose: a tokenizer learns from each once."""
    return getattr(registry.component("source", source["type"]), "repeats", False)


def _read(source):
    """(the documents of a source, what it left out)"""
    documents, component = [], registry.build("source", source)
    for document in component.documents():
        if not (isinstance(document, (tuple, list)) and len(document) == 2 and all(isinstance(part, str) for part in document)):
            raise DataError(blame.gives(component, "documents", document, "(name, text)"))
        name, text = document
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: not Unicode text: half a surrogate pair at character {error.start:,}") from None
        documents.append(_Document(name, text, hashlib.sha256(content).digest(), len(content)))
    about = component.left_out.summary() if hasattr(component, "left_out") else {}
    if not documents:
        why = "; ".join(left_out.sentences({"skipped": about.get("skipped", {})}))
        raise DataError(f"the source {source['type']} has no text at all{f' ({why})' if why else ''}")
    return documents, about


def _content(documents):
    return hashlib.sha256(b"".join(item.digest for item in documents)).hexdigest()


def _split(documents, source, fractions):
    """{split: its documents}. Raises DataError if a split has none."""
    if fractions is ALL:
        return dict.fromkeys(SPLITS, documents)
    splits = {split: [item for item in documents if split_of(item.digest) == split] for split in SPLITS}
    for split, part in splits.items():
        if not part:
            shares = ", ".join(f"{fraction:.0%} {name}" for name, fraction in FRACTIONS.items())
            raise DataError(
                f"the {split} split has no document: the source {source} has {len(documents)}, and they are split whole, by "
                f"content ({shares}); give more documents (100 or so), or cut text files into documents with `separator`"
            )
    return splits


def _build(splits, content, data, vocab_size, fractions, folder):
    """Train the tokenizer on the train split and write every split's tokens into `folder`."""
    console = Console(stderr=True, markup=False)
    written = [item.text for item in splits["train"]]
    trained, around, vocabulary, lengths = learned.learn(
        data.tokenizer, list(dict.fromkeys(written)) if _repeats(data.source) else written, vocab_size, console
    )
    dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
    stored = trained.to_str(pretty=True)
    sizes, changed = {}, []
    for split, documents in splits.items():
        chunks = [documents[first : first + CHUNK] for first in range(0, len(documents), CHUNK)]
        shown = track(chunks, f"Tokenizing {split}", console=console, transient=True, disable=not console.is_terminal)
        taken, lost = _tokenized(shown, trained, lengths, around, dtype)
        changed += lost
        if data.on_loss == "keep":
            taken = sorted((*taken, *lost), key=lambda each: each.place)
        if not taken:
            if data.on_loss == "refuse":
                continue  # what is lost is counted in all splits
            raise DataError(f"the tokenizer changes every document of the {split} split, so data.on_loss: skip leaves none")
        stream = _stream(taken, around, dtype)
        digests = np.stack([np.frombuffer(each.document.digest[:8], np.uint8) for each in taken])
        for name, array in (("tokens", stream.tokens), ("starts", stream.starts), ("digests", digests)):
            np.save(folder / f"{split}.{name}.npy", array)
        sizes[split] = {"documents": len(taken), "tokens": len(stream.tokens), "bytes": sum(each.bytes for each in taken)}
    if changed and data.on_loss == "refuse":
        _refuse(changed[0], len(changed), sum(map(len, splits.values())), trained, lengths, around)
    np.save(folder / "byte_lengths.npy", lengths)
    (folder / "tokenizer.json").write_text(stored, encoding="utf-8")
    decides = {"format": FORMAT, "texts": content, "fractions": fractions, "tokenizer": stored}
    decides |= {"on_loss": data.on_loss} if changed else {}
    ours = ends(None, trained)
    decides |= {"bos": around.bos, "eos": around.eos} if (around.bos, around.eos) != (ours.bos, ours.eos) else {}
    known = {"fingerprint": digest(decides), "sizes": sizes, "vocabulary": vocabulary, "ends": asdict(around), "lost": len(changed)}
    (folder / "corpus.json").write_text(json.dumps(known, indent=1))
    # The tokenizers library has used threads. Without this, it would warn of deadlocks in a fork of this process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, eq=False)
class _Taken:
    """A document as tokens. place: its number in the split. bytes: UTF-8, of a text that the tokenizer changes as changed."""

    place: int
    document: _Document
    ids: np.ndarray
    bytes: int


def _tokenized(chunks, trained, lengths, around, dtype):
    """(the documents in `chunks` that survive their tokenizer, those that do not).

    The result does not depend on the chunk size or the number of threads.
    """
    kept: list[_Taken] = []
    lost: list[_Taken] = []
    for chunk in chunks:
        written = [item.text for item in chunk]
        try:
            ids = [encoding.ids for encoding in trained.encode_batch_fast(written, add_special_tokens=False)]
        except Exception as error:  # the library raises bare Exception, where there is no token for what is unknown
            raise DataError(f"the tokenizer cannot encode these texts ({error})", key=("data", "tokenizer")) from None
        for item, numbers, whole in zip(chunk, ids, loss.survives(trained, written, ids, lengths, around), strict=True):
            array = np.array(numbers, dtype=dtype)
            size = item.bytes if whole else int(lengths[array].sum())
            (kept if whole else lost).append(_Taken(len(kept) + len(lost), item, array, size))
    return kept, lost


def _stream(taken, around, dtype):
    """One Stream of all documents, each between the tokens that stand around it."""
    before, after = (np.array([] if number is None else [number], dtype=dtype) for number in (around.bos, around.eos))
    pieces = [np.concatenate([before, each.ids, after]) for each in taken]
    starts = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Stream(np.concatenate(pieces), starts)


def _refuse(first, count, documents, trained, lengths, around):
    """Raise a DataError about a document that the tokenizer changes, the first of `count`."""
    where = loss.described(trained, first.document.name, first.document.text, first.ids.tolist(), lengths, around)
    these = f"{count:,} of {documents:,} documents {'is' if count == 1 else 'are'} changed"
    choice = "data.on_loss: skip leaves such documents out, keep takes them as changed"
    raise DataError(f"{where}; {these}; {choice}", key=("data", "tokenizer"))


def _opened(folder, source):
    """The Corpus in a prepared folder. Opened again only if one of the folder's files has changed."""
    try:
        files = texts.stamps(sorted(folder.iterdir()))
    except (OSError, DataError) as error:
        raise cached.damaged(folder, error) from None
    return _open(folder, source, tuple(map(tuple, files)))


@lru_cache(maxsize=8)
def _open(folder, source, files):
    try:
        known = json.loads((folder / "corpus.json").read_text())
        streams = {
            split: Stream(np.load(folder / f"{split}.tokens.npy", mmap_mode="r"), np.load(folder / f"{split}.starts.npy"))
            for split in SPLITS
        }
        lengths = np.load(folder / "byte_lengths.npy")
        digests = {split: np.load(folder / f"{split}.digests.npy") for split in SPLITS}
        for split, stream in streams.items():
            if len(stream.tokens) != known["sizes"][split]["tokens"] or stream.starts[-1] != len(stream.tokens):
                raise ValueError(f"{split}: not the tokens that were stored")
            if len(digests[split]) != len(stream.starts) - 1:
                raise ValueError(f"{split}: not the documents that were stored")
        tokenizer = load(folder / "tokenizer.json")
        around, vocabulary = Ends(**known["ends"]), known["vocabulary"]
        return Corpus(
            known["fingerprint"], source, tokenizer, lengths, known["sizes"], streams, digests, vocabulary, around, known["lost"]
        )
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise cached.damaged(folder, error) from None
