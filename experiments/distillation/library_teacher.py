"""A teacher of vectors that the library sentence-transformers reads (extra `embedding`): an encoder of any architecture it knows.

It reads the texts of a student's rows as it would alone: with its own tokenizer, up to its own limit, queries by `encode_query` and
all other texts by `encode_document`.

Shapes: B rows, F numbers of a vector.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Discriminator, Tag
from torch import Tensor

from arch import digests
from arch.cost import DTYPES
from arch.errors import DataError, install
from arch.sentence import MODULES
from arch.sentence.read import entries, has_modules
from arch.spec import Spec
from experiments.data.batch import Rows
from experiments.distillation.estimate import TRIED_FLOPS, faster_of_two
from experiments.distillation.kept_vectors import About, one_by_one, threads_of
from experiments.spec import Folder, RunReference, TrainSpec

# Where a spec names the folder, so that an error says file and line.
KEY = ("objective", "teacher", "sentence_transformers")
# Files of a module that say what it computes; not its README, and no copies of its weights for other engines.
DECISIVE = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})


class Library(Spec):
    """sentence_transformers: a folder that this library reads as a whole."""

    sentence_transformers: Folder

    @property
    def folder(self) -> Path:
        """Where it is; `~` is expanded."""
        return Path(self.sentence_transformers).expanduser()

    def decides(self) -> dict[str, str]:
        """{name in the folder: sha256} of the files that say what its vectors are."""
        return {str(path.relative_to(self.folder)): digests.of(path) for path in files(self.folder)}

    def width(self, precision: str) -> int:
        """The numbers of its vectors. Raises DataError, at its key, where it cannot be read or says no width."""
        if (width := _width(self.folder, _states(self.folder), precision)) is None:
            raise DataError(f"{self.folder}: its last module does not say how wide its vectors are", key=KEY)
        return width

    def cost(self, precision: str, context: int, train: TrainSpec) -> Cost:
        """What it costs to read a text of about `context` tokens. train: of the run that learns from it."""
        return _cost(self.folder, _states(self.folder), precision, context, train.threads, train.accelerator)


def _form(value: Any) -> str:
    return "Library" if isinstance(value, Library) or (isinstance(value, dict) and KEY[-1] in value) else "Run"


# A run, or a folder that the library reads: which of the two, the key says, so that an error is of the one that is meant.
RunOrLibrary = Annotated[Annotated[RunReference, Tag("Run")] | Annotated[Library, Tag("Library")], Discriminator(_form)]


class Cost(NamedTuple):
    """flops_per_token: of its matrix products. seconds_per_token: on this CPU; None where that is not known before."""

    flops_per_token: float
    seconds_per_token: float | None


def about(library: Library, precision: str, device: str) -> About:
    """What decides its vectors beside the text."""
    versions = {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "tokenizers")}
    return About(files=library.decides(), precision=precision, device=device, threads=threads_of(device), versions=versions)


class OfLibrary:
    """A frozen teacher that the library computes."""

    def __init__(self, library: Library, precision: str, dataset: Any):
        self.model, self.dataset = load(library.folder, precision), dataset

    def vectors(self, rows: Rows, kind: str) -> Tensor:
        """(B, F), float32, of the texts of rows of one kind of a batch (`query`, `positive`, `negative`), on the rows' device."""
        device = rows.tokens_BT.device
        self.model.to(device)
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        with torch.autocast(device.type, enabled=False):
            found = encode(self.dataset.written(rows.extra["text"]), show_progress_bar=False, convert_to_tensor=True)
        return found.float().clone()  # a plain tensor, not one of the library's inference mode

    def each(self, rows: Rows, kind: str) -> Tensor:
        """As `vectors`, one text after the other: the bits of each depend on no other text."""
        return one_by_one(self, rows, kind)


def load(folder: Path, precision: str = "float32") -> Any:
    """The library's model in a folder, frozen and on the CPU, with weights in `precision`; nothing is fetched, and no random
    number of the run is used up. Raises DataError."""
    _modules(folder)
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError:
        raise DataError(f"this teacher needs the package sentence-transformers: {install('embedding')}", key=KEY) from None
    logging.disable_progress_bar()  # of its weights; ours says how far a run is
    kind = DTYPES[precision]
    with torch.random.fork_rng(devices=[]):
        try:
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": kind})
        except Exception as error:  # of the library, of transformers, or of a module's own code
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{folder}: sentence-transformers cannot read it: {said}", key=KEY) from None
    return model.to(kind).requires_grad_(False).eval()


def files(folder: Path) -> list[Path]:
    """The files that decide what a folder's encoder computes, sorted: those of the folder and of its modules. Raises DataError."""
    places = {folder, *(folder / each["path"] for each in _modules(folder))}
    return sorted(path for place in places if place.is_dir() for path in place.iterdir() if path.suffix in DECISIVE)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """What its modules.json lists. Raises DataError, at its key."""
    if not has_modules(folder):
        raise DataError(f"{folder}: no {MODULES}; expected a folder of sentence-transformers", key=KEY)
    try:
        found = entries(folder)
    except DataError as error:
        raise DataError(str(error), key=KEY) from None
    if not found:
        raise DataError(f"{folder / MODULES}: expected a list of modules", key=KEY)
    return found


def _states(folder: Path) -> tuple[Any, ...]:
    """What changes when a file changes, so that what is known of a folder is asked only once."""
    return tuple(digests.state(path) for path in files(folder))


@lru_cache(maxsize=16)
def _width(folder: Path, states: tuple[Any, ...], precision: str) -> int | None:
    width: int | None = load(folder, precision).get_embedding_dimension()
    return width


@lru_cache(maxsize=16)
def _cost(folder: Path, states: tuple[Any, ...], precision: str, context: int, threads: int, accelerator: str) -> Cost:
    """From reading one text: its products are counted, with those of attention; then it is timed, if that is short."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, text = load(folder, precision), " ".join(["a"] * context)
    tokens = model.preprocess([text])["input_ids"].numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.encode(text, show_progress_bar=False)
    flops = float(counted.get_total_flops())
    if accelerator != "cpu" or flops > TRIED_FLOPS:
        return Cost(flops / tokens, None)
    return Cost(flops / tokens, faster_of_two(lambda: model.encode(text, show_progress_bar=False), threads) / tokens)
