"""A teacher's vectors on disk: each text is read once, for all runs that learn from this teacher.

    $ARCHBENCH_CACHE/vectors/KEY/about.json        what decides the vectors; KEY is its digest
                                 SHA256.safetensors   of some texts: keys (N,) int64, ascending, and vectors (N, F) float32

A key is a hash of what the teacher reads, so data sets and arms that share texts share vectors. What a text's vector is depends
on no other text: the teacher reads it alone, or in rows whose width and number its length decides; always in float32 around
weights of its own precision, whatever the run computes in. So it does not matter who computed it. One process fills a folder at a
time, under a lock. A file is named by the sha256 of its content and is written whole or not at all: a process that is killed loses
what it was reading, at most the texts of `PAIRS` pairs.

Shapes: B rows, F numbers of a vector, N texts of a file, P pairs that a run reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arch import digests
from arch.contracts import Reading
from arch.errors import DataError
from arch.kernels import products
from arch.spec import Spec, digest
from experiments.data.batch import Batch, Rows
from experiments.data.cache import root, writing
from experiments.distillation.cache import locked
from experiments.files import write_atomically

FORMAT, FOLDER = 1, "vectors"
# Pairs whose texts are read, and written, at once; and what is counted.
PAIRS, COUNTED = 1024, "pairs of the teacher"

Whole = NDArray[np.int64]
Keys = NDArray[np.int64]


class About(Spec):
    """What decides a teacher's vectors beside the text. files: {name: sha256}. model: digest of its spec, of a model of ours.

    precision: of its weights. device: the kind of device that reads; threads: of a CPU. versions: of the libraries that compute or
    split a text into tokens. plugins: digests of sources that are part of it. format: to be raised when what we compute changes.
    """

    format: int = FORMAT
    files: dict[str, str]
    model: str | None = None
    precision: str
    device: str
    threads: int | None
    versions: dict[str, str]
    plugins: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where these vectors are, or will be."""
        return root() / FOLDER / digest(self.dump())[:32]


class Reader(Protocol):
    """A teacher that can read each text by itself."""

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows, as a step without a cache has them."""
        ...

    def each(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows; the bits of each depend on no other row."""
        ...


def one_by_one(teacher: Reader, rows: Rows, kind: str) -> Tensor:
    """(B, F) of the rows, each read alone."""
    return torch.cat([teacher.vectors(rows.part(slice(row, row + 1)), kind) for row in range(len(rows))])


class KeptTeacher:
    """A teacher whose vectors are looked up. It is loaded, and reads a text, only where nobody has read it."""

    def __init__(self, about: Callable[[str], About], keys: Callable[[Rows, str], Keys], load: Callable[[], Reader]):
        """about: for a kind of device. keys: of rows of one kind of a batch, a hash of what is read. load: the teacher."""
        self.about, self.keys, self.load = about, keys, load

    @cached_property
    def teacher(self) -> Reader:
        """The teacher, once it is needed."""
        return self.load()

    @cached_property
    def known(self) -> Vectors:
        """What was on disk when it was last asked for, and all that this process read."""
        return Vectors()

    def begin(self, reading: Reading) -> None:
        """Read all texts of the train split that a run will read, and write down those that were not there. Raises DataError."""
        number_P = reading.dataset.numbers("train", reading.steps, reading.seed, reading.rows, reading.context)
        folder = self.about(reading.device.type).folder
        batches = [number_P[first : first + PAIRS] for first in range(0, len(number_P), PAIRS)]
        self.known.read(folder)
        if any(len(self._unread(self.keys(rows, kind))[0]) for batch in _told(reading, batches) for kind, rows in batch.items()):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_name(f"{folder.name}.lock"), reading.progress):
                self._fill(reading, folder, batches)
        reading.progress(len(number_P), len(number_P), COUNTED)

    def _fill(self, reading: Reading, folder: Path, numbers: Sequence[Whole]) -> None:
        about = self.about(reading.device.type).dump()
        with writing(folder):
            for stale in folder.glob(".*"):  # of processes that were killed: only the holder of the lock writes
                stale.unlink()
            if not (folder / "about.json").exists():
                write_atomically(folder / "about.json", json.dumps(about, indent=1).encode())
        self.known.read(folder)
        for batch in _told(reading, numbers):
            read = (self._read(rows, kind, self.keys(rows, kind), reading.device) for kind, rows in batch.items())
            if found := [each for each in read if len(each[0])]:
                key_N, at_N = np.unique(np.concatenate([keys for keys, _ in found]), return_index=True)
                vector_NF = torch.cat([vectors for _, vectors in found])[torch.from_numpy(at_N)]
                with writing(folder):
                    self.known.write(folder, key_N, vector_NF)

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows, on their device. A text that is not on disk is read, and known from then on in this process."""
        device, key_B = rows.tokens_BT.device, self.keys(rows, kind)
        if not self.known.place:  # in an evaluation, which begins with nothing
            self.known.read(self.about(device.type).folder)
        self.known.add(*self._read(rows, kind, key_B, device))
        return self.known.of(key_B).to(device)

    def _unread(self, key_B: Keys) -> tuple[Keys, Whole]:
        """(the keys, ascending; where they stand) of the texts that nobody has read, each once."""
        key_N, at_N = np.unique(key_B, return_index=True)
        new_N = np.array([key not in self.known.place for key in key_N.tolist()])
        return key_N[new_N], at_N[new_N]

    def _read(self, rows: Rows, kind: str, key_B: Keys, device: torch.device) -> tuple[Keys, Tensor]:
        """(the keys, ascending; their vectors) of the texts that nobody has read, each once."""
        key_N, at_N = self._unread(key_B)
        if not len(key_N):
            return key_N, torch.empty(0, 0)
        unread = rows.part(torch.from_numpy(at_N).to(rows.tokens_BT.device)).to(device)
        with _in_float32(device):
            return key_N, self.teacher.each(unread, kind).float().cpu()


def _told(reading: Reading, numbers: Sequence[Whole]) -> Iterator[Batch]:
    """Yields the pairs with these numbers, and says before each batch how many there were."""
    for place, number_P in enumerate(numbers):
        reading.progress(place * PAIRS, sum(map(len, numbers)), COUNTED)
        yield reading.dataset.numbered("train", number_P, reading.context)


def threads_of(device: str) -> int | None:
    """How many threads a CPU computes with, which decides the last bits; None of another kind of device."""
    return torch.get_num_threads() if device == "cpu" else None


@contextmanager
def _in_float32(device: torch.device) -> Iterator[None]:
    """Whatever a run computes in, until the end of the block nothing is rounded that a teacher's own precision does not round."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with products.exact(), torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(usual)


class Vectors:
    """Vectors by their keys, file by file. place: {key: (number of the file, its place there)}."""

    def __init__(self) -> None:
        self.files: list[Tensor] = []
        self.names: set[str] = set()
        self.place: dict[int, tuple[int, int]] = {}

    def read(self, folder: Path) -> None:
        """Add those of a folder's files that are new; they stay mapped from disk. Raises DataError for a damaged file."""
        for path in sorted(folder.glob("*.safetensors")):
            if path.name not in self.names:
                try:
                    if digests.of(path) != path.stem:
                        raise SafetensorError("its content is not what its name says")
                    self._open(path)
                except (SafetensorError, OSError) as error:
                    raise DataError(f"{path}: damaged ({error}); delete it and start again", key=None) from None

    def write(self, folder: Path, key_N: Keys, vector_NF: Tensor) -> None:
        """Write a file and add it. Raises OSError."""
        written = save({"keys": torch.from_numpy(key_N), "vectors": vector_NF.contiguous()})
        path = folder / f"{hashlib.sha256(written).hexdigest()}.safetensors"
        write_atomically(path, written)
        self._open(path)

    def _open(self, path: Path) -> None:
        with safe_open(path, "pt") as file:  # its tensors stay mapped into memory when it is closed
            self.add(file.get_tensor("keys").numpy(), file.get_tensor("vectors"))
        self.names.add(path.name)

    def add(self, key_N: Keys, vector_NF: Tensor) -> None:
        """More vectors. One that is known already is the same again."""
        if len(key_N):
            for place, key in enumerate(key_N.tolist()):
                self.place.setdefault(key, (len(self.files), place))
            self.files.append(vector_NF)

    def of(self, key_B: Keys) -> Tensor:
        """(B, F) of these keys, all of which are known."""
        place_B = [self.place[key] for key in key_B.tolist()]
        return torch.stack([self.files[file][place] for file, place in place_B])
