"""A teacher's vectors on disk: each text is read once, for all runs that learn from this teacher.

    $ARCHBENCH_CACHE/vectors/KEY/about.json        what decides the vectors; KEY is its digest
                                 SHA256.safetensors   of some texts: keys (N,) int64, ascending, and vectors (N, F) float32

A key is a hash of what the teacher reads, so data sets and arms that share texts share vectors. What a text's vector is depends
on no other text: the teacher reads it alone, or among a fixed number of rows. So it does not matter who computed it. Two processes
that miss the same texts at once write equal files, and nothing is locked. A file is named by the sha256 of its content and is
written whole or not at all: a process that is killed loses what it was reading, at most `PAIRS` pairs.

Shapes: B rows, F numbers of a vector, N texts of a file, P pairs that a run reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arch import digests
from arch.contracts import Reading
from arch.errors import DataError
from arch.spec import Spec, digest
from experiments.data.batch import Rows
from experiments.data.cache import VARIABLE, root
from experiments.files import write_atomically

FORMAT, FOLDER = 1, "vectors"
# Pairs whose texts are read, and written, at once.
PAIRS = 1024

Keys = NDArray[np.int64]


class About(Spec):
    """What decides a teacher's vectors beside the text. files: {name: sha256}. model: digest of its spec, of a model of ours.

    precision: of its weights. plugins: digests of sources that are part of it.
    """

    format: int = FORMAT
    files: dict[str, str]
    model: str | None = None
    precision: str
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

    def __init__(self, about: About, keys: Callable[[Rows, str], Keys], load: Callable[[], Reader]):
        """keys: of rows of one kind of a batch, a hash of what the teacher reads. load: the teacher."""
        self.about, self.keys, self.load = about, keys, load

    @cached_property
    def teacher(self) -> Reader:
        """The teacher, once it is needed."""
        return self.load()

    @cached_property
    def known(self) -> Vectors:
        """What is on disk, when it is first asked for, and all that this process read."""
        return Vectors.read(self.about.folder)

    def begin(self, reading: Reading) -> None:
        """Read all texts of the train split that a run will read, and write down those that were not there. Raises DataError."""
        number_P = reading.dataset.numbers("train", reading.steps, reading.seed, reading.rows, reading.context)
        for first in range(0, len(number_P), PAIRS):
            reading.progress(first, len(number_P), "pairs of the teacher")
            batch = reading.dataset.numbered("train", number_P[first : first + PAIRS], reading.context)
            found = [each for kind, rows in batch.items() if len((each := self._unknown(rows, kind, reading.device))[0])]
            if found:
                key_N, at_N = np.unique(np.concatenate([keys for keys, _ in found]), return_index=True)
                self._write(key_N, torch.cat([vectors for _, vectors in found])[torch.from_numpy(at_N)])
        reading.progress(len(number_P), len(number_P), "pairs of the teacher")

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F) of the rows, on their device. A text that is not on disk is read, and known from then on in this process."""
        device = rows.tokens_BT.device
        self.known.add(*self._unknown(rows, kind, device))
        return self.known.of(self.keys(rows, kind)).to(device)

    def _unknown(self, rows: Rows, kind: str, device: Any) -> tuple[Keys, Tensor]:
        """(their keys, ascending; their vectors) of the rows whose text nobody has read, each text once."""
        key_N, at_N = np.unique(self.keys(rows, kind), return_index=True)
        new_N = np.array([key not in self.known for key in key_N.tolist()])
        if not new_N.any():
            return key_N[:0], torch.empty(0, 0)
        unread = rows.part(torch.from_numpy(at_N[new_N]).to(rows.tokens_BT.device))
        return key_N[new_N], self.teacher.each(unread.to(device), kind).float().cpu()

    def _write(self, key_N: Keys, vector_NF: Tensor) -> None:
        folder = self.about.folder
        written = save({"keys": torch.from_numpy(key_N), "vectors": vector_NF.contiguous()})
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "about.json").exists():
                write_atomically(folder / "about.json", json.dumps(self.about.dump(), indent=1).encode())
            write_atomically(folder / f"{hashlib.sha256(written).hexdigest()}.safetensors", written)
        except OSError as error:
            reason = f"{folder}: cannot be written ({error.strerror or error}); set {VARIABLE} to another folder"
            raise DataError(reason, key=None) from None
        self.known.add(key_N, vector_NF)


class Vectors:
    """Vectors by their keys, file by file."""

    def __init__(self) -> None:
        self.files: list[Tensor] = []
        self.place: dict[int, tuple[int, int]] = {}  # {key: (file, its place there)}

    def __contains__(self, key: int) -> bool:
        return key in self.place

    @classmethod
    def read(cls, folder: Path) -> Vectors:
        """Those of a folder's files, which stay mapped from disk; none without a folder. Raises DataError for a damaged file."""
        found = cls()
        for path in sorted(folder.glob("*.safetensors")):
            try:
                if digests.of(path) != path.stem:
                    raise SafetensorError("its content is not what its name says")
                with safe_open(path, "pt") as file:
                    found.add(file.get_tensor("keys").numpy(), file.get_tensor("vectors"))
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path}: damaged ({error}); delete it and start again", key=None) from None
        return found

    def add(self, key_N: Keys, vector_NF: Tensor) -> None:
        """More vectors. One that is known already is the same again."""
        if not len(key_N):
            return
        for place, key in enumerate(key_N.tolist()):
            self.place.setdefault(key, (len(self.files), place))
        self.files.append(vector_NF)

    def of(self, key_B: Keys) -> Tensor:
        """(B, F) of these keys, all of which are known."""
        place_B = [self.place[key] for key in key_B.tolist()]
        return torch.stack([self.files[file][place] for file, place in place_B])
