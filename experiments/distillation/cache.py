"""Targets on disk: what is kept of a teacher for rows of the train split, computed once for all runs that learn from it.

    $ARCHBENCH_CACHE/teacher/KEY/about.json       what decides the targets; KEY is its digest
                                 index.json       the shards that are whole: name, bytes, sha256, rows, tokens, entries
                                 shard-000000.safetensors ...

A shard holds some rows, ascending. rows (R,) int64: their numbers. content (R,) int64: a hash of each row's tokens and
targets, so that a dataset whose rows have changed although its fingerprint has not is found out. first (R + 1,) int64: each
row's first position among the scored ones. offsets (N + 1,) int32: each scored position's first entry. entries int32: words
as in `packed`, without those that are no entry. tail (N,) float32: the mass of all other tokens. entropy (N,) float32: the
teacher's.

A shard is written whole or not at all, and exists once the index names it. So a process that is killed loses the shard that
it was at, and the next one goes on from there with the same bytes. One process fills a cache at a time, under a lock.

Shapes: R rows of a shard, N its scored positions, B rows of a batch, T tokens, K entries per position.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arch.contracts import Dataset
from arch.errors import DataError, SpecError
from arch.spec import Spec, digest, later
from experiments.data.batch import Rows
from experiments.data.cache import root, writing
from experiments.data.draws import hashed
from experiments.distillation import packed
from experiments.distillation.teacher import Keeping, Kept, Teacher, rows_at_once
from experiments.files import write_atomically

FORMAT, FOLDER = 2, "teacher"
# Tokens per shard: at 256 entries, 64 MB.
SHARD_TOKENS = 1 << 16

Progress = Callable[[int, int, str], None]


class About(Spec):
    """What decides targets: the teacher, the rows and what is kept of each.

    weights: sha256 of the teacher's weights file. model: digest of its spec. data: the dataset's fingerprint.
    vocabulary: of the model, which decides how entries are stored. computes: what the run that asks computes in
    (`products.said`), as its teacher does too. plugins: digests of sources that are part of the teacher.
    """

    format: int = FORMAT
    weights: str
    model: str
    vocabulary: int
    data: str
    split: str = "train"
    context: int
    keeping: Keeping
    computes: str = later("float32")
    plugins: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where these targets are, or will be."""
        return root() / FOLDER / digest(self.dump())[:32]


# What a difference in About means, in words.
TEACHER = "another teacher"
MEANING = {"weights": TEACHER, "model": TEACHER, "plugins": TEACHER, "data": "other data", "context": "another context"}


class Shard(Spec):
    """A whole shard, as the index names it."""

    file: str
    bytes: int
    sha256: str
    rows: int
    tokens: int
    entries: int


class _Open(NamedTuple):
    rows: np.ndarray
    content: np.ndarray
    first: np.ndarray
    offsets: Tensor
    entries: Tensor
    tail: Tensor
    entropy: Tensor


class Cache:
    """The targets of one teacher, opened: memory-mapped, found by the numbers of rows."""

    def __init__(self, about: About):
        """Opens what is there; nothing is written. Raises DataError for a folder that holds something else, or damaged files."""
        self.about, self.folder = about, about.folder
        self.shards: list[Shard] = []
        self.opened: list[_Open] = []
        self.place: dict[int, tuple[int, int]] = {}  # {number of a row: (shard, its place there)}
        inspect(about)
        self._read()

    def __contains__(self, number: int) -> bool:
        return number in self.place

    @property
    def bytes(self) -> int:
        """On disk, of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def fill(
        self, numbers: np.ndarray, compute: Callable[[np.ndarray], tuple[Rows, Kept]], progress: Progress, at_once: int = 1
    ) -> int:
        """Compute and write the rows with these numbers that are missing; returns how many. Raises DataError.

        What `compute` raises passes, and the shards that were whole stay.

        compute: from numbers, `at_once` of them, to the rows and what is kept of them. progress: called with (rows done, all
        rows that were missing, in words what is counted).
        """
        if all(int(number) in self.place for number in numbers):
            return 0
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f"{self.folder.name}.lock"), progress):
            return self._fill(numbers, compute, progress, at_once)

    def _fill(self, numbers, compute, progress, at_once):
        inspect(self.about)
        self._read()
        with writing(self.folder):
            for stale in self.folder.glob(".*"):  # of processes that were killed: only the holder of the lock writes
                stale.unlink()
            if not self.shards:
                text = json.dumps(self.about.dump(), indent=1)
                write_atomically(self.folder / "about.json", text.encode())
        missing = np.unique([number for number in numbers if int(number) not in self.place]).astype(np.int64)
        rows = max(1, SHARD_TOKENS // self.about.context)
        for first in range(0, len(missing), rows):
            part, done = missing[first : first + rows], []
            for i in range(0, len(part), at_once):
                progress(first + i, len(missing), "rows of the teacher")
                done.append(compute(part[i : i + at_once]))
            with writing(self.folder):
                self._write(part, done)
        progress(len(missing), len(missing), "rows of the teacher")
        return len(missing)

    def _write(self, numbers, computed):
        """Write a shard and then the index that names it."""
        words, tails, entropies, lengths, scored, content = [], [], [], [], [], []
        for rows, kept in computed:
            target_BT = rows.targets_BT.cpu() >= 0
            words_NK = kept.words_BTK.cpu()[target_BT]
            used_NK = words_NK != 0
            words.append(words_NK[used_NK])
            lengths.append(used_NK.sum(1))
            tails.append(kept.tail_BT.cpu()[target_BT])
            entropies.append(kept.entropy_BT.cpu()[target_BT])
            scored.extend(target_BT.sum(1).tolist())
            content.append(_content(rows))
        tensors = {
            "rows": torch.from_numpy(numbers),
            "content": torch.from_numpy(np.concatenate(content)),
            "first": torch.tensor([0, *scored]).cumsum(0),
            "offsets": torch.cat([torch.zeros(1, dtype=torch.long), *lengths]).cumsum(0).to(torch.int32),
            "entries": torch.cat(words),
            "tail": torch.cat(tails),
            "entropy": torch.cat(entropies),
        }
        written = save(tensors)
        file = f"shard-{len(self.shards):06d}.safetensors"
        write_atomically(self.folder / file, written)
        counts = {"rows": len(numbers), "tokens": len(tensors["tail"]), "entries": len(tensors["entries"])}
        shard = Shard(file=file, bytes=len(written), sha256=hashlib.sha256(written).hexdigest(), **counts)
        index = {"shards": [each.dump() for each in (*self.shards, shard)]}
        write_atomically(self.folder / "index.json", json.dumps(index, indent=1).encode())
        self._add(shard)

    def _read(self):
        """Open the shards of the index that are not open yet."""
        for shard in index_of(self.folder)[len(self.shards) :]:
            path = self.folder / shard.file
            if _sha256(path, *_state(path)) != shard.sha256:
                raise _damaged(path, "its sha256 is not the one that was noted")
            self._add(shard)

    def _add(self, shard):
        path = self.folder / shard.file
        try:
            with safe_open(path, "pt") as file:  # its tensors stay mapped into memory when it is closed
                opened = {name: file.get_tensor(name) for name in _Open._fields}
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None
        rows, content, first = (opened[name].numpy() for name in ("rows", "content", "first"))
        for i, number in enumerate(rows):
            self.place[int(number)] = len(self.opened), i
        self.shards.append(shard)
        self.opened.append(_Open(rows, content, first, *(opened[name] for name in _Open._fields[3:])))

    def kept(self, rows: Rows) -> Kept:
        """What is kept of rows of the train split. Raises DataError for a row that is not in the cache, or that was another."""
        assert rows.targets_BT is not None and rows.key_B is not None
        target_BT, k = rows.targets_BT.cpu() >= 0, self.about.keeping.k
        words_BTK = torch.zeros(*target_BT.shape, k, dtype=torch.int32)
        tail_BT, entropy_BT = (torch.zeros(target_BT.shape, dtype=torch.float32) for _ in range(2))
        for b, (number, content) in enumerate(zip(rows.key_B.tolist(), _content(rows), strict=True)):
            if number not in self.place:
                raise DataError(f"{self.folder}: row {number:,} is not in this cache", key=None)
            shard, i = self.place[number]
            opened, scored = self.opened[shard], slice(*(int(place) for place in self.opened[shard].first[i : i + 2]))
            if content != opened.content[i]:
                reason = "other tokens or targets than when it was written: the data has changed, but not its fingerprint"
                raise DataError(f"{self.folder}: row {number:,} has {reason}; delete this folder and start again", key=None)
            ends = opened.offsets[scored.start : scored.stop + 1]
            used_NK = torch.arange(k) < ends.diff()[:, None]
            words_NK = torch.zeros(len(used_NK), k, dtype=torch.int32)
            words_NK[used_NK] = opened.entries[int(ends[0]) : int(ends[-1])]
            words_BTK[b, target_BT[b]] = words_NK
            tail_BT[b, target_BT[b]] = opened.tail[scored]
            entropy_BT[b, target_BT[b]] = opened.entropy[scored]
        device = rows.tokens_BT.device
        return Kept(words_BTK.to(device), tail_BT.to(device), entropy_BT.to(device))

    def means(self) -> tuple[float, float]:
        """(tail, entropy): their means over all positions in the cache; NaN without any."""
        tails, entropies = ([getattr(opened, name) for opened in self.opened] for name in ("tail", "entropy"))
        tokens = sum(map(len, tails))
        both = (sum(float(each.double().sum()) for each in column) for column in (tails, entropies))
        tail, entropy = (total / tokens if tokens else float("nan") for total in both)
        return tail, entropy


def fill(about: About, teacher: Callable[[], Teacher], dataset: Dataset, numbers: Any, device: Any, progress: Progress) -> Cache:
    """The Cache with these rows of the train split; what is missing is computed. teacher: called only if something is."""
    cache = Cache(about)

    def compute(numbers):
        rows = dataset.numbered(about.split, numbers, about.context)["text"]
        return rows, teacher().kept(rows.to(device), about.keeping)

    cache.fill(np.asarray(numbers), compute, progress, rows_at_once(torch.device(device), about.context))
    return cache


def inspect(about: About) -> None:
    """Raises DataError where the folder of these targets holds others, or files that are not as long as they were.

    It reads no shard, so that planning may ask. A folder that is not there is none that is wrong.
    """
    path = about.folder / "about.json"
    if not path.is_file():
        return
    try:
        theirs = About.parse(json.loads(path.read_text()))
    except ValueError as error:
        raise _damaged(path, error) from None
    if theirs != about:
        ours, other = about.dump(), theirs.dump()
        key = next(key for key in ours if ours[key] != other[key])
        meaning = MEANING.get(key, "other targets")
        raise DataError(
            f"{about.folder}: a cache of {meaning}: {key} is {_short(other[key])}, expected {_short(ours[key])}", key=None
        )
    for shard in index_of(about.folder):
        file = about.folder / shard.file
        size = file.stat().st_size if file.is_file() else 0
        if size != shard.bytes:
            raise _damaged(file, f"{size:,} of its {shard.bytes:,} bytes are there")


def index_of(folder: Path) -> list[Shard]:
    """The shards that a folder's index names; none if there is no index. Raises DataError for one that cannot be read."""
    path = folder / "index.json"
    if not path.is_file():
        return []
    try:
        return [Shard.parse(each) for each in json.loads(path.read_text())["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def bytes_at_most(tokens: float, mode: str, k: int, vocabulary: int) -> float:
    """Bytes that so many positions take: exact for the largest k, up to a header per shard; draws may repeat and need less."""
    entries = min(k, vocabulary) if mode in packed.SPARSE else 0
    return float(tokens * (4 * entries + 12))


def check_numbered(dataset: Dataset, source: str) -> None:
    """Raises SpecError, at the key `cache` of an objective, for a dataset (of a source of this type) without rows by number."""
    if not (hasattr(dataset, "numbers") and hasattr(dataset, "numbered")):
        raise SpecError(f"the source {source} has no rows by number, which a cache needs; expected false", ("cache",))


def _acquired(lock, path):
    """Whether a lock was acquired within a second."""
    with writing(path), suppress(Timeout):
        lock.acquire(timeout=1)
    return lock.is_locked


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock. While another process holds it, `progress` is called, so that the wait can be seen and interrupted.

    Raises DataError where the file of the lock cannot be written.
    """
    lock = FileLock(path)
    while not _acquired(lock, path):
        progress(0, 1, "waiting for another process that fills the teacher's cache")
    try:
        yield
    finally:
        lock.release()


def _content(rows: Rows) -> np.ndarray:
    """(B,) int64: a hash of each row's tokens and targets."""
    assert rows.targets_BT is not None
    return hashed(torch.cat([rows.tokens_BT, rows.targets_BT], 1).cpu().numpy()).view(np.int64)


def _short(value):
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 12 else value


def _damaged(path, why):
    return DataError(f"{path}: the teacher's cache is damaged ({why}); delete its folder and start again", key=None)


def _state(path):
    try:
        about = path.stat()
    except OSError as error:
        raise _damaged(path, error.strerror or error) from None
    return about.st_size, about.st_mtime_ns


@lru_cache(maxsize=100_000)
def _sha256(path, size, modified):
    """A file's sha256, computed once per process."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
