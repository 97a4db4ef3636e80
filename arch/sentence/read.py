"""Read what stands behind the trunk in a folder of sentence-transformers. What our models cannot be is refused by name.

The library itself says nothing in several of these cases: a folder without modules.json loses its maps, and a Dense without
the name of an activation gets a Tanh.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch import json_files, tensors
from arch.document import Node
from arch.errors import DataError
from arch.sentence import DENSE, MODULES, SETTINGS, TEXTS, behind, configs, dense
from arch.sentence.texts import limit
from arch.tensors import As, Tensors
from arch.words import is_unicode, listed, times

KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
ORDER = re.compile("Transformer Pooling( Dense)*( Normalize)?")
IN_WORDS = "a Transformer, a Pooling, any number of Dense and at most one Normalize, in this order"
# A Dense keeps its tensor in one of these; older releases wrote the second.
WEIGHTS = (tensors.SINGLE, "pytorch_model.bin")


@dataclass(frozen=True)
class Modules:
    """What a folder says behind its trunk.

    trunk: the folder with the trunk's config.json, its weights and the tokenizer. pooling: the Pooling's config. pool: the
    type of our pool. width: of what it pools. maps: {folder of a Dense: the width behind it}. weights: {the same: its
    Tensors}. prompts: {name: text}. limit: tokens of a text, at most. notes: sentences about what is not
    kept.
    """

    trunk: Path
    pooling: Node
    pool: str
    width: int
    maps: dict[str, int]
    weights: dict[str, Tensors]
    prompts: dict[str, str]
    limit: int
    notes: list[str]

    def spec(self, dim):
        """The keys of a ModelSpec for it. Raises SpecError where the trunk is not as wide as what is pooled."""
        if self.width != dim:
            key = "embedding_dimension" if "embedding_dimension" in self.pooling.value else "word_embedding_dimension"
            raise self.pooling.error(f"{self.width}, but the trunk has hidden_size = {dim}", (key,))
        return behind(self.pool, list(self.maps.values()))

    def shown(self):
        """In a few words."""
        widths = [self.width, *self.maps.values()]
        maps = f", maps to {listed(str(width) for width in widths[1:])}" if self.maps else ""
        named = f"; prompts {listed(self.prompts)}" if self.prompts else ""
        return f"vectors of {widths[-1]} numbers: pool {self.pool}{maps}; texts of at most {times(self.limit, 'token')}{named}"


def has_modules(path):
    """Whether `path` is a folder that says which modules it has."""
    return (Path(path) / MODULES).is_file()


def check_is_no_encoder(folder):
    """Raises DataError for a folder without modules.json that has other files of an encoder."""
    folder = Path(folder)
    names = [name for name in (SETTINGS, TEXTS) if (folder / name).is_file()]
    names += sorted(path.name for kind in KINDS[1:] for path in folder.glob(f"[0-9]*_{kind}"))
    if names:
        raise DataError(
            f"{folder}: an encoder by its {listed(names)}, but without {MODULES}, which says what stands behind the trunk: "
            "sentence-transformers would take the mean of the hidden states and lose every map without a word. "
            f"Put {MODULES} there, or give a spec without a pool as --spec, for the trunk alone",
            key=None,
        )


def read(folder):
    """The Modules of a folder that has a modules.json. Raises DataError or SpecError."""
    folder = Path(folder)
    modules = _modules(folder)
    (_, trunk), (_, pooling), *rest = modules
    trunk, node = folder / trunk, _config(folder, pooling)
    pool, width = configs.pool(node)
    maps, weights, before = {}, {}, width
    for kind, place in rest:
        if kind == "Dense":
            before = maps[place] = _outputs(_config(folder, place), before)
            weights[place] = _weights(folder / place)
        elif (folder / place / "config.json").is_file():
            configs.Normalize.parse(json_files.read(folder / place / "config.json"))
    settings, notes = _settings(folder, normalized=modules[-1][0] == "Normalize")
    texts = json_files.read(trunk / TEXTS) if (trunk / TEXTS).is_file() else Node({})
    most = limit(trunk, configs.most_tokens(texts))
    return Modules(trunk, node, pool, width, maps, weights, settings.prompts, most, notes)


def sources(spec, modules=None):
    """{our parameter: As} of the maps behind the pool of a ModelSpec: in the folders of the Modules, else in the usual ones."""
    named = list(modules.maps) if modules else []
    named += [dense(number) for number in range(len(named), len(spec.project))]
    return {f"project.{number}.weight": As(f"{named[number]}/{DENSE}") for number in range(len(spec.project))}


def entries(folder: Path) -> list[dict[str, Any]]:
    """What modules.json lists: each with the texts `path` and `type`. Raises DataError."""
    path = folder / MODULES
    data = json_files.loaded(path)
    fits = isinstance(data, list) and all(isinstance(entry, dict) for entry in data)
    if not fits or not all(isinstance(entry.get(key), str) for entry in data for key in ("path", "type")):
        raise DataError(f"{path}: expected a list of modules, each with a `path` and a `type`", key=None)
    return data


def _modules(folder):
    """[(kind, name of its folder)] of the modules, in an order that our models can have."""
    path = folder / MODULES
    found: list[tuple[str, str]] = []
    for entry in entries(folder):
        package, kind = entry["type"].partition(".")[0], entry["type"].rpartition(".")[2]
        if package != "sentence_transformers" or kind not in KINDS:
            known = f"known: {', '.join(KINDS)} of sentence_transformers"
            raise DataError(f"{path}: our models have no module {entry['type']}; {known}", key=None)
        if not (folder / entry["path"]).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path}: {entry['path']}: expected a folder in this one", key=None)
        if any(entry["path"] == place for _, place in found):
            raise DataError(f"{path}: {entry['path']} twice; expected a folder for each module", key=None)
        found.append((kind, entry["path"]))
    kinds = [kind for kind, _ in found]
    if not ORDER.fullmatch(" ".join(kinds)):
        raise DataError(f"{path}: it has {', '.join(kinds) or 'none'}; expected {IN_WORDS}", key=None)
    named = {(folder / place).resolve() for _, place in found}
    if left := [each.name for each in sorted(folder.glob("[0-9]*_Dense")) if each.resolve() not in named]:
        reason = f"it does not name {listed(left)}, without which the vectors would be others"
        raise DataError(f"{path}: {reason}: add what is missing, or move the folder away", key=None)
    return found


def _config(folder, place):
    path = folder / place / "config.json"
    if not path.is_file():
        reason = f"it names {place}, but there is no {path}; without it, the vectors would be others"
        raise DataError(f"{folder / MODULES}: {reason}", key=None)
    return json_files.read(path)


def _outputs(node, before):
    """The width behind a Dense, of which `before` is the width in front of it."""
    inputs, outputs = configs.widths(node)
    if inputs != before:
        raise node.error(f"{inputs}, but what comes before it has {before}", ("in_features",))
    return outputs


def _weights(place):
    for name in WEIGHTS:
        if (place / name).is_file():
            return tensors.open_tensors(place / name)
    raise DataError(f"{place}: no {' and no '.join(WEIGHTS)} in it; without its map, the vectors would be others", key=None)


def _settings(folder, normalized):
    """(Settings, notes about what our encoders do otherwise)."""
    path = folder / SETTINGS
    node = json_files.read(path) if path.is_file() else Node({})
    said = configs.Settings.parse(node)
    if said.model_type != "SentenceTransformer":
        raise node.error(f"{said.model_type}: expected SentenceTransformer, which gives one vector per text", ("model_type",))
    for name, text in said.prompts.items():
        if not is_unicode(text):
            raise node.error("expected text, got half of a surrogate pair", ("prompts", name))
    notes = []
    if not normalized:
        if said.similarity_fn_name not in (None, "cosine"):
            text = f"{said.similarity_fn_name}, of vectors without a Normalize; ours have length 1"
            raise node.error(text, ("similarity_fn_name",))
        notes.append("it has no Normalize: its vectors have length 1 here, in the same directions")
    if said.default_prompt_name is not None:
        notes.append(f"its default prompt is not kept: name it when you encode ({said.default_prompt_name})")
    if said.truncate_dim is not None:
        notes.append(f"its truncate_dim is not kept: give the width when you encode ({said.truncate_dim})")
    return said, notes
