"""An encoder as the Massive Text Embedding Benchmark takes one (`mteb` 2.26; extra `mteb`).

    encoder = load_encoder(folder)                                                    # arch.encoding
    model = MTEBEncoder(lambda texts, prompt: encoder.encode(texts, prompt=prompt), encoder.prompts, "local/my-encoder")
    results = mteb.evaluate(model, [task], cache=None, co2_tracker=False, encode_kwargs={"batch_size": 32})

Always give `cache=None`: otherwise mteb keeps results by the encoder's name, and shows those of other weights again. Pass a task
as an object, a new one for each call. Its clustering embeds 4 % of the texts unless the task says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arch.errors import DataError, nearest

Vectors = NDArray[np.float32]


class MTEBEncoder:
    """What `mteb.evaluate` calls. Its methods are those of mteb's `EncoderProtocol`.

    vectors: gives the vectors (N, E) of texts that all have the same prompt. prompts: {name: prompt}, as a checkpoint's
    `prompts.json`. name: `ORGANISATION/NAME`, under which mteb reports it. alike: the name of the prompt where a task does not
    tell queries from documents and no prompt is named after its type.
    """

    def __init__(
        self, vectors: Callable[[Sequence[str], str], Any], prompts: Mapping[str, str], name: str, alike: str = "query"
    ) -> None:
        self.vectors, self.prompts, self.name, self.alike = vectors, prompts, name, alike

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb asks of a model: its name."""
        from mteb.models.model_meta import ModelMeta

        return ModelMeta.create_empty({"name": self.name, "revision": "1"})

    def prompt(self, task_type: str, kind: str | None) -> str:
        """The prompt of a task: the first that there is of TYPE-KIND, TYPE, KIND. Raises DataError where there is none.

        kind: `query`, `document`, or None where a task does not tell them apart.
        """
        names = [f"{task_type}-{kind}" if kind else "", task_type, kind or self.alike]
        found = [self.prompts[name] for name in names if name in self.prompts]
        if not found:
            raise DataError(f"no prompt for the task type {task_type!r}{nearest(names[-1], self.prompts)}", key=None)
        return found[0]

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> Vectors:
        """(N, E): the vectors of the texts of all batches, with the prompt of the task. The encoder chooses its own batches."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        return np.asarray(self.vectors(texts, self.prompt(task_metadata.type, kind)), dtype=np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """(N, M): cosines of all pairs."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """(N,): cosines of the pairs that stand beside each other."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


def _unit(vectors: Any) -> Vectors:
    """Vectors (N, E), or one (E,), with length 1; zeros stay."""
    x_NE = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    unit: Vectors = x_NE / np.maximum(np.linalg.norm(x_NE, axis=1, keepdims=True), 1e-12)
    return unit
