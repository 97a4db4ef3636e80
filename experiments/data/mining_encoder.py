"""Hard negatives by an encoder of one's own: the vectors that a checkpoint gives of queries and of documents.

Shapes: N queries, M candidates, E numbers of a vector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from arch import checkpoint, digests
from arch.encoding import Encoder, load_encoder
from arch.errors import DataError
from arch.prompts import CONFIG, PROMPTS

# What of a folder decides its vectors.
FILES = (checkpoint.SPEC, checkpoint.WEIGHTS, checkpoint.TOKENIZER, PROMPTS, CONFIG)


def content(folder: str, key: tuple[str, ...]) -> dict[str, str]:
    """{file: its sha256} of what decides the vectors. Raises DataError, at this key of the spec, for a folder without weights."""
    found = {name: digests.of(Path(folder) / name) for name in FILES if (Path(folder) / name).is_file()}
    if checkpoint.WEIGHTS not in found:
        raise DataError(f"{folder}: no {checkpoint.WEIGHTS} in it; expected the checkpoint of an encoder", key)
    return found


def vectors(
    folder: str, queries: Sequence[str], candidates: Sequence[str], key: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, E) and (M, E): the vectors of queries and of candidates, of length 1, each kind with its prompt of the checkpoint.

    Raises DataError, at this key of the spec, for a folder that is no encoder's, or has prompts and yet none of these two.
    """
    try:
        encoder = load_encoder(folder)
        return _of(encoder, queries, "query"), _of(encoder, candidates, "document")
    except DataError as error:
        raise DataError(str(error), key) from None


def _of(encoder: Encoder, texts: Sequence[str], task: str) -> torch.Tensor:
    return torch.from_numpy(encoder.encode(texts, task=task if encoder.prompts else None))
