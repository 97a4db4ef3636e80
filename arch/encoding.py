"""Vectors of texts: `load_encoder(folder).encode(texts, task="query")`, or part by part for as many texts as there are.

Texts are read WINDOW at a time, so that memory does not grow with their number, and sorted by length within it. A batch ends
before PADDING of it would be padding: lengths of real texts have a long tail, and 32 of the longest would be half padding.
Results come in the order of the texts.

Shapes: B rows, T tokens, N texts, E numbers of a vector.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
from torch import Tensor

from arch import checkpoint, prompts
from arch.errors import DataError, nearest
from arch.layout import TokenLayout
from arch.model import Model
from arch.texts_to_rows import ids_of, padded, padding_of
from arch.tokenizer import Ends, read
from arch.words import is_unicode

# Texts that are sorted together, and the most rows of a batch.
WINDOW, ROWS = 1024, 32
# The most padding of a batch, as a share of its positions; up to so many positions, another row costs less than another batch.
PADDING, SMALL = 0.05, 512
FLOAT16 = (
    "float16: the activations of such models reach 800,000 and its largest number is 65,504, so vectors would not be finite; "
    "use float32 or bfloat16"
)

Progress = Callable[[int], None]  # called after each batch with the number of texts that are encoded


class Part(NamedTuple):
    """Some texts in a row with their vectors, and what was read for them.

    vector_NE: float32, on the CPU. tokens: of all texts, with those around them. padding: positions that were read beside them.
    cut: how many texts had more tokens than a row may have.
    """

    texts: list[str]
    vector_NE: Tensor
    tokens: int
    padding: int
    cut: int


@torch.no_grad()
def encode(
    model: Model,
    tokenizer: tokenizers.Tokenizer,
    ends: Ends,
    texts: Iterable[str],
    prompt: str = "",
    dim: int | None = None,
    batch_rows: int = ROWS,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Part]:
    """Yields the vectors of texts in their order, up to WINDOW of them at a time; on the device of the model.

    prompt: what stands in front of each text. dim: the first numbers of a vector to keep, normalised again. max_tokens: of a
    row, with prompt and `<eos>`; what is beyond is cut and counted. Raises DataError for a model without a pool, in float16, or
    with fewer numbers than `dim`; for a prompt that leaves no room; and, naming its number from 1, for a text that is empty or
    no text, or whose vector is not finite.
    """
    _check(model, dim)
    _check_room(tokenizer, ends, prompt, max_tokens)
    pad, rest, before = padding_of(tokenizer), iter(texts), 0
    while window := [_checked(text, number) for number, text in enumerate(islice(rest, WINDOW), before + 1)]:
        rows, cut = ids_of(tokenizer, ends, window, prompt, max_tokens)
        _check_rows(rows, model.spec.vocab_size, before)
        vector_NE, read, done = torch.empty(len(rows), dim or model.spec.vector_dim or 0, dtype=torch.float32), 0, before
        for numbers in batches([len(row) for row in rows], batch_rows):
            tokens_BT, length_B = padded([rows[i] for i in numbers], pad)
            vector_NE[numbers] = _vectors(model, tokens_BT, length_B, dim)
            read, done = read + tokens_BT.numel(), done + len(numbers)
            if progress is not None:
                progress(done)
        if bad := torch.nonzero(~vector_NE.isfinite().all(1)).tolist():
            raise DataError(f"the vector of text {before + 1 + bad[0][0]:,} is not finite", key=None)
        tokens = sum(map(len, rows))
        yield Part(window, vector_NE, tokens, read - tokens, cut)
        before += len(window)


def batches(lengths: Sequence[int], batch_rows: int) -> Iterator[list[int]]:
    """Yields the numbers of the texts of each batch, the longest first: what is too much for memory shows at once."""
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        positions = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        full = len(batch) == batch_rows or (positions > SMALL and positions - tokens - lengths[i] > PADDING * positions)
        if batch and full:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch


def _vectors(model, tokens_BT, length_B, dim):
    device, tokens = model.embedding.device, tokens_BT.shape[1]
    if int(length_B.min()) == tokens:  # without padding, attention needs no mask
        layout = TokenLayout.whole(len(tokens_BT), tokens, device)
    else:
        layout = TokenLayout.right_padded(length_B.to(device), tokens)
    return model.encode(tokens_BT.to(device), layout, dim).float().cpu()


def _check(model, dim):
    if model.spec.pool is None:
        raise DataError("a model without a pool gives no vector of a text", key=None)
    check_dtype(model.embedding.dtype)
    check_dim(model.spec, dim)


def check_dtype(dtype: Any) -> None:
    """Raises DataError for float16, in which the models do not compute finite numbers."""
    if dtype == torch.float16:
        raise DataError(FLOAT16, key=None)


def check_dim(spec: Any, dim: int | None) -> None:
    """Raises DataError unless the vectors of an encoder's ModelSpec have `dim` numbers."""
    if dim is not None and not 1 <= dim <= spec.vector_dim:
        raise DataError(
            f"{dim} numbers of a vector: the model gives {spec.vector_dim:,}; expected 1 to {spec.vector_dim}", key=None
        )


def _check_room(tokenizer, ends, prompt, max_tokens):
    """Raises DataError where no token of a text would fit into a row."""
    if max_tokens is not None and (taken := len(ids_of(tokenizer, ends, [""], prompt)[0][0])) >= max_tokens:
        raise DataError(
            f"prompt: {taken} tokens with those around a text, of {max_tokens} that a row may have: no text is left", key=None
        )


def _check_rows(rows, vocabulary, before):
    """Raises DataError for a text without a token, and for one with a token that the model does not have."""
    for number, row in enumerate(rows, before + 1):
        if not row:
            raise DataError(f"text {number:,} is empty: the tokenizer gives it no token", key=None)
        if max(row) >= vocabulary:
            raise DataError(
                f"text {number:,}: the tokenizer gives the id {max(row):,}, but the model has {vocabulary:,} tokens", key=None
            )


def _checked(text, number):
    if not isinstance(text, str):
        raise DataError(f"text {number:,} is not text but {type(text).__name__}", key=None)
    if not text.strip():
        raise DataError(f"text {number:,} is empty", key=None)
    if not is_unicode(text):
        raise DataError(f"text {number:,} is not valid Unicode: it has half of a surrogate pair", key=None)
    return text


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder from a checkpoint. prompts: {task: what stands in front of a text}. max_tokens: of a row; None: any number."""

    model: Model
    tokenizer: tokenizers.Tokenizer
    ends: Ends
    prompts: Mapping[str, str]
    max_tokens: int | None = None

    def encode(
        self,
        texts: Sequence[str],
        task: str | None = None,
        prompt: str | None = None,
        dim: int | None = None,
        batch_rows: int = ROWS,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """The vectors of texts, (N, dim) float32 of length 1: products of two are cosines. Arguments and errors as `stream`."""
        if isinstance(texts, str):
            raise DataError("expected a list of texts, got one text", key=None)
        parts = [part.vector_NE for part in self.stream(texts, task, prompt, dim, batch_rows, progress)]
        width = dim or self.model.spec.vector_dim or 0
        return (torch.cat(parts) if parts else torch.empty(0, width, dtype=torch.float32)).numpy()

    def stream(
        self,
        texts: Iterable[str],
        task: str | None = None,
        prompt: str | None = None,
        dim: int | None = None,
        batch_rows: int = ROWS,
        progress: Progress | None = None,
    ) -> Iterator[Part]:
        """Yields a Part after the other, so that neither texts nor vectors need be in memory at once.

        task: the name of one of `prompts`. prompt: the text itself, instead; empty for none. One of the two must be given where
        the encoder has prompts: it was trained with them. Raises DataError, also for a task that does not exist; see `encode`.
        """
        own = self.prompt(task, prompt)
        return encode(self.model, self.tokenizer, self.ends, texts, own, dim, batch_rows, self.max_tokens, progress)

    def prompt(self, task: str | None = None, prompt: str | None = None) -> str:
        """What stands in front of a text of this task. Raises DataError, see `stream`."""
        if task is not None and prompt is not None:
            raise DataError("a task and a prompt: expected one of them", key=None)
        if task is not None:
            if task not in self.prompts:
                raise DataError(f"no prompt {task!r}{nearest(task, self.prompts)}", key=None)
            return self.prompts[task]
        if prompt is None and self.prompts:
            known = ", ".join(self.prompts)
            raise DataError(
                f"the encoder was trained with prompts: expected a task ({known}), or a prompt, empty for none", key=None
            )
        return prompt or ""


def load_encoder(folder: Path | str, dtype: Any = None, device: Any = None) -> Encoder:
    """The Encoder in a checkpoint folder of ours.

    dtype: by default that of the checkpoint. device: by default a GPU if there is one. Raises DataError for a folder that is no
    checkpoint, has no tokenizer or whose model has no pool, and for float16.
    """
    spec, found = checkpoint.open_checkpoint(folder)
    if spec.pool is None:
        raise DataError(
            f"{folder}: its model has no pool, so it gives no vector of a text; `archbench generate` continues one", key=None
        )
    path = Path(folder) / checkpoint.TOKENIZER
    if not path.is_file():
        raise DataError(f"{folder}: no {checkpoint.TOKENIZER} in it; put the one that the model was trained with there", key=None)
    tokenizer = read(path)
    tokenizer.encode_special_tokens = prompts.splits(folder)  # as training does, or the library that the checkpoint is from
    if dtype is not None:
        check_dtype(dtype)
    about = prompts.ends_of(folder), prompts.prompts(folder), prompts.most_tokens(folder)
    model = checkpoint.build(spec, found, dtype)
    check_dtype(model.embedding.dtype)
    return Encoder(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer, *about)
