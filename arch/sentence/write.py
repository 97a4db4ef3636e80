"""Write what stands behind the trunk of an encoder as a folder of sentence-transformers.

The layout and the names of modules are those of releases before 6, which newer ones read too. Every map says that it has no
activation, because without that the library takes a Tanh.
"""

import json
from pathlib import Path
from typing import Any

from arch import checkpoint, prompts, tensors
from arch.errors import DataError
from arch.sentence import DENSE, IDENTITY, MODULES, POOLS, SETTINGS, TEXTS, dense, texts
from arch.sentence.configs import FLAGS
from arch.tensors import As


def check_width(spec, dim):
    """Raises DataError for a width of cut vectors that the model of a ModelSpec does not have. dim: None for no cut."""
    if dim is not None and not 1 <= dim <= (spec.vector_dim or 0):
        has = f"a vector has {spec.vector_dim} numbers" if spec.pool is not None else "the model has no pool, so no vectors"
        raise DataError(f"truncate_dim: {dim}, but {has}", key=None)


def check_pool(spec):
    """Raises ValueError for a pool that sentence-transformers does not have."""
    if spec.pool["type"] not in POOLS.values():
        raise ValueError(f"pool: sentence-transformers has none like {spec.pool['type']}; it has {', '.join(POOLS.values())}")


def modules(source, spec, found, folder, truncate_dim=None):
    """Write all but the trunk of the checkpoint `source` into `folder`, where its tokenizer's files are already.

    spec, found: of the checkpoint. Raises DataError.
    """
    folder = Path(folder)
    places = ["", "1_Pooling", *(dense(number) for number in range(len(spec.project)))]
    places.append(f"{len(places)}_Normalize")
    listed = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{_kind(place)}"}
        for number, place in enumerate(places)
    ]
    _write(listed, folder / MODULES, indent=2)
    mode = next(theirs for theirs, ours in POOLS.items() if ours == spec.pool["type"])
    flags = {flag: name == mode for flag, name in FLAGS.items()}
    _write({"word_embedding_dimension": spec.dim, **flags, "include_prompt": True}, folder / "1_Pooling" / "config.json")
    widths = (spec.dim, *spec.project)
    for number, place in enumerate(places[2:-1]):
        said = {"in_features": widths[number], "out_features": widths[number + 1], "bias": False, "activation_function": IDENTITY}
        _write(said, folder / place / "config.json")
        map_ = tensors.renamed(found, {DENSE: As(f"project.{number}.weight")})
        tensors.write(map_, folder / place / checkpoint.WEIGHTS)
    _write({"max_seq_length": texts.write(source, folder), "do_lower_case": False}, folder / TEXTS)
    settings: dict[str, Any] = {"model_type": "SentenceTransformer", "prompts": prompts.prompts(source)}
    settings |= {"default_prompt_name": None, "similarity_fn_name": "cosine"}
    _write(settings | ({} if truncate_dim is None else {"truncate_dim": truncate_dim}), folder / SETTINGS, indent=2)


def _kind(place):
    return place.partition("_")[2] or "Transformer"


def _write(data, path, indent=4):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=indent), encoding="utf-8")
