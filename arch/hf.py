"""Load, import and export Hugging Face folders and weights files, by the name tables of `arch.families`.

A folder of sentence-transformers is a trunk with a pool and maps behind it, which `arch.sentence` reads and writes; one with a
vision tower is a text model with a tower before it (`arch.multimodal`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from arch import checkpoint, cost, document, families, json_files, multimodal, prompts, registry, tensors
from arch.errors import DataError, SpecError
from arch.express import differences, express, loaded
from arch.model_spec import ModelSpec
from arch.sentence import read as sentence
from arch.sentence import texts, write
from arch.spec import spelt
from arch.tensors import As, Entry, Tensors
from arch.tokenizer import read, special_tokens
from arch.words import listed

CONFIG = "config.json"


@dataclass(frozen=True)
class Found:
    """A foreign checkpoint, with its tensors under our names.

    ignored: names of tensors that do not belong to the model. notes: sentences that say where a given spec contradicts
    the folder's own config, what of it is not kept, and which of its weights are not read. modules: what stands behind the
    trunk (`arch.sentence.read.Modules`), of a folder that says so.
    """

    spec: ModelSpec
    tensors: Tensors
    family: str
    ignored: list[str]
    notes: list[str]
    modules: sentence.Modules | None = None


def load(path, spec=None, dtype=None, family=None):
    """The Model of a checkpoint: a Hugging Face folder, a weights file (with a spec), or a folder in our format.

    spec: a ModelSpec, or the name or path of one. dtype: by default the type of most of the weights. family: a
    family's name, or the import path of a module with `NAMES`. Raises DataError or SpecError.
    """
    spec = _loaded(spec)
    if checkpoint.is_checkpoint(path):
        return checkpoint.load(path, dtype, spec)
    found = find(path, spec, family)
    return checkpoint.build(found.spec, found.tensors, dtype)


def import_(source, out, spec=None, family=None, progress=None):
    """Convert the foreign checkpoint `source` to our format in the folder `out`, one tensor at a time. Returns a Found.

    progress: as for `tensors.write`. Raises DataError or SpecError; nothing is written then.
    """
    found = find(source, spec, family)
    folder = found.modules.trunk if found.modules else Path(source)
    said = checkpoint.generation(folder) if folder.is_dir() else {}
    if found.modules:
        found.notes.extend(texts.check(folder))
    with checkpoint.appearing(out) as scratch:
        checkpoint.write(found.spec, found.tensors, scratch, progress)
        if folder.is_dir():
            checkpoint.copy_text_files(folder, scratch)
        if said and not (scratch / checkpoint.GENERATION).is_file():
            (scratch / checkpoint.GENERATION).write_text(json.dumps(said, indent=1) + "\n")
        if found.modules:
            texts.keep(found.modules.prompts, found.modules.limit, folder, scratch)
    return found


def export(source, out, progress=None, truncate_dim=None):
    """Convert a checkpoint in our format to a Hugging Face folder. Returns the name of the `transformers` class.

    A model with a pool becomes a folder of sentence-transformers. truncate_dim: how many numbers of a vector it gives there
    by default. Raises DataError where no class can express the model; nothing is written then.
    """
    spec, found = checkpoint.open_checkpoint(source)
    write.check_width(spec, truncate_dim)
    family, config = express(spec)
    architecture = config.architecture() if spec.pool is None else family.TRUNK
    if spec.vision is not None:
        architecture = family.WITH_IMAGES
    named = families.table(family, spec, families.trunk(found.entries))
    root = "" if architecture == getattr(family, "TRUNK", None) else "model."  # a trunk's names have no prefix
    if spec.vision is not None:
        root = multimodal.TEXT
    named = {ours: As(_rooted(to.name, root), to.read, to.write) for ours, to in named.items()} | multimodal.sources(spec)
    theirs = {to.name: As(ours, to.write) for ours, to in named.items()}
    types = {entry.dtype for entry in found.entries.values()}
    dtype = str(max(types, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    written = {"architectures": [architecture], "dtype": dtype, "torch_dtype": dtype}  # torch_dtype: before 4.56
    special = special_tokens(source)
    text = config.written() | special
    written |= text if spec.vision is None else multimodal.written(spec) | {"text_config": text} | special
    with checkpoint.appearing(out) as scratch:
        checkpoint.copy_text_files(source, scratch)
        (scratch / CONFIG).write_text(json.dumps(written, indent=2) + "\n")
        if spec.pool is not None:
            write.modules(source, spec, found, scratch, truncate_dim)
        else:
            _name_tokens(scratch)
        for name, content in multimodal.processors(spec).items() if spec.vision is not None else ():
            (scratch / name).write_text(json.dumps(content, indent=2) + "\n")
        tensors.write(tensors.renamed(found, theirs), scratch / checkpoint.WEIGHTS, progress)
    return architecture


def _name_tokens(folder):
    """Say in the tokenizer_config.json of an exported decoder what its tokens are called, where there is none of transformers' own.

    Without the class, transformers would take the one of the model's family, which cuts texts otherwise; without the names, a chat
    template would write neither the token that begins a text nor the one that ends it.
    """
    path = Path(folder) / checkpoint.TOKENIZER
    if not path.is_file() or "tokenizer_class" in prompts.of_tokenizer(folder):
        return
    tokenizer, special = read(path), special_tokens(folder)
    first = {key: ids[0] if isinstance(ids, list) else ids for key, ids in special.items() if key != checkpoint.BLIND}
    names = {key.removesuffix("_id"): tokenizer.id_to_token(number) for key, number in first.items()}
    said = {"tokenizer_class": texts.CLASS, "clean_up_tokenization_spaces": False}
    prompts.say_of_tokenizer(folder, said | {key: name for key, name in names.items() if name is not None})


def since(folder):
    """{what an exported model has: the first release of `transformers` that computes it}; a folder that `export` wrote."""
    config = document.node(json.loads((Path(folder) / CONFIG).read_text()))
    family = _family(folder, config, None, None)
    part = _text_config(config)
    return (multimodal.SINCE if part is not config else {}) | _parsed(family, part).since()


def find(path, spec=None, family=None):
    """A foreign checkpoint as Found: every tensor is accounted for, none is read yet. Raises DataError or SpecError."""
    given = _loaded(spec)
    modules = _modules(path, given)
    trunk = modules.trunk if modules else Path(path)
    held = tensors.open_tensors(trunk)
    config = _config(trunk / CONFIG)
    chosen = families.named(family) if family else _family(path, config, held, given)
    if modules and not hasattr(chosen, "TRUNK"):
        known = listed(name for name in families.names() if hasattr(families.named(name), "TRUNK"))
        raise DataError(f"{path}: an encoder of {families.title(chosen)}; those that are read have a trunk of {known}", key=None)
    own, notes = None, _set_aside(trunk)
    if config and hasattr(chosen, "Config"):
        try:
            own = _spec_of(chosen, config, modules)
        except SpecError as error:
            if given is None:
                raise
            notes.append(f"its {CONFIG} cannot be expressed and is set aside ({error})")
    spec = given or own
    if spec is None:
        raise DataError(f"{path}: no {CONFIG} of a known family says what the model is; give a spec", key=None)
    if given and own:
        lost = differences(own, given).items()
        lost = [(key, pair) for key, pair in lost if spec.vision is not None or not key.startswith("vision")]
        notes += [f"the spec has {key}: {spelt(ours)} where {CONFIG} has {spelt(its)}" for key, (its, ours) in lost]
    notes += _beside(path, modules, spec, own)
    if own is not None and own.vision is not None and spec.vision is None:
        notes.append("the spec has no vision: only the text part is read")

    expected = checkpoint.parameters(spec)
    root = _root(chosen, held)
    named = families.table(chosen, spec, families.trunk(expected))
    sources = {ours: As(_rooted(to.name, root), to.read) for ours, to in named.items()} | sentence.sources(spec, modules)
    sources |= multimodal.sources(spec, held, path)
    if modules:
        held = tensors.joined({"": held, **modules.weights})
    ignored = [name for name in held.entries if _ignored(name, chosen, spec)]
    _check(path, expected, sources, held, ignored)
    return Found(spec, tensors.renamed(held, sources), families.title(chosen), ignored, notes, modules)


def _modules(path, given):
    """What stands behind the trunk in a folder that says so, or None. Raises DataError or SpecError.

    A given spec without a pool asks for the trunk alone.
    """
    if given is not None and given.pool is None:
        return None
    if sentence.has_modules(path):
        return sentence.read(path)
    sentence.check_is_no_encoder(path)
    return None


def _beside(path, modules, spec, own):
    """Sentences about what stands behind the trunk and is not kept, or not there. own: what the folder itself says, or None."""
    mixers = [block.mixer for block in spec.blocks.values()]
    ahead = any(mixer and mixer.get("causal") is False for mixer in mixers)
    if modules:
        notes = [*modules.notes]
        if own is not None and not ahead:
            notes.append("no token of a text sees a later one, as its config has no `use_bidirectional_attention: true`")
        if own is None and spec.pool["type"] != modules.pool:
            notes.append(f"the spec has pool: {spec.pool['type']} where the folder has {modules.pool}")
        return notes
    if sentence.has_modules(path):
        return [f"the spec has no pool: what {sentence.MODULES} names is left out"]
    if own is not None and ahead:
        return [f"no {sentence.MODULES}: a trunk that sees ahead and has no pool, so it gives no vector of a text"]
    return []


def _set_aside(path):
    """A sentence about the weights of a folder that are not read, in a list; an empty list if there are none."""
    others = tensors.set_aside(path)
    if not others:
        return []
    return [f"{tensors.SINGLE} is read, as transformers does; set aside: {listed(others)}"]


def _config(path):
    """A folder's config.json as a Node with line numbers, or None if there is none. Raises DataError."""
    if not path.is_file():
        return None
    config = json_files.read(path)
    if not isinstance(_text_config(config).value, dict):
        raise DataError(f"{path}: expected a mapping of keys", key=None)
    return config


def _text_config(config):
    """The text part of a multimodal config; any other config unchanged."""
    return config.value.get("text_config", config)


def _family(path, config, held, given):
    """The family of this config's model_type. Raises DataError where there is none.

    Without a model_type: the first family whose names for the given spec match the tensors. Gemma 2 and Gemma 3 use the
    same names for the parts that both have, so either may be the answer.
    """
    known = {name: families.named(name) for name in families.names()}
    types = {f.Config.model_fields["model_type"].default: f for f in known.values() if hasattr(f, "Config")}
    model_type = _text_config(config).value.get("model_type") if config else None
    if model_type is not None:
        if isinstance(model_type.value, str) and model_type.value in types:
            return types[model_type.value]
        what = f"the model_type {model_type.value!r}"
    else:
        fits = [family for family in known.values() if _fits(family, held, given)]
        if fits:
            return fits[0]
        what = "the names of its tensors"
        if given is None and any(_root(family, held) is not None for family in known.values()):
            raise DataError(f"{path}: no {CONFIG} of a known model_type says what the model is; give a spec", key=None)
    more = ""
    if sentence.has_modules(path):
        more = f". It can teach as it is: `teacher: {{sentence_transformers: {path}}}` (docs/embedding.md)"
    raise DataError(
        f"{path}: no family knows {what}; known: {', '.join(types)} and weights files of the reference Griffin. Give one of "
        f"{', '.join(known)} as --family, or a name table of your own with a spec (docs/checkpoints.md){more}",
        key=None,
    )


def _fits(family, held, spec):
    """Whether more than 90 % of the names that the family gives to a model of `spec` are in the checkpoint."""
    if spec is None:
        return False
    try:
        named = families.table(family, spec, families.trunk(checkpoint.parameters(spec)))
    except SpecError:
        return False
    root = _root(family, held)
    names = {_rooted(source.name, root) for source in named.values()}
    return len(names & held.entries.keys()) > 0.9 * len(names)


def _parsed(family, part):
    """The family's Config of a config.json, without keys that transformers writes but that decide nothing that is computed."""
    known = {key: value for key, value in part.value.items() if key in family.Config.keys()}  # noqa: SIM118
    return family.Config.parse(document.Node(known, part.file, part.line))


def _spec_of(family, config, modules=None):
    """The resolved ModelSpec that a config.json describes, with the Modules behind it. Raises SpecError with its file and line."""
    part = _text_config(config)
    parsed = _parsed(family, part)
    try:
        data = parsed.spec()
    except ValueError as error:
        key, _, reason = str(error).partition(": ")
        raise part.error(reason, (key,)) from None
    vision = multimodal.read(config) if hasattr(family, "WITH_IMAGES") else None
    data |= {} if vision is None else {"vision": vision}
    root = document.node(data | (modules.spec(data["dim"]) if modules else {}), part.file, part.line)
    spec = registry.resolve(ModelSpec.parse(root), root)
    cost.check_builds(spec, root)
    return spec


def _loaded(spec):
    """The ModelSpec of a name or path; a ModelSpec and None are returned unchanged. Raises SpecError."""
    return spec if spec is None or isinstance(spec, ModelSpec) else loaded(str(spec))


def _root(family, held):
    """The prefix that replaces the leading `model.` of names in this checkpoint; None if it has no embedding."""
    embedding = family.NAMES["embedding"]
    name = embedding.name if isinstance(embedding, As) else embedding
    roots = getattr(family, "ROOTS", ("model.",))
    return next((root for root in roots if _rooted(name, root) in held.entries), None)


def _rooted(name, root):
    return root + name.removeprefix("model.") if name.startswith("model.") and root is not None else name


def _ignored(name, family, spec):
    """Whether a tensor is not part of the model: vision tower and projector of a model that has none, or a tied head's copy of the
    embedding."""
    seen = multimodal.is_head(name) if spec.vision is not None else name.startswith(getattr(family, "IGNORED", ()))
    return seen or (spec.tie_embeddings and name.endswith(("lm_head.weight", "lm_head.out_proj.weight")))


def _check(path, expected, sources, held, ignored):
    used = {source.name for source in sources.values()}
    entries = {name: entry for name, entry in held.entries.items() if name not in used and name not in ignored}
    for ours, source in sources.items():
        if source.name in held.entries:
            entries[ours] = _translated(held.entries[source.name], source)
    checkpoint.check(path, expected, entries, {ours: source.name for ours, source in sources.items()})


def _translated(entry, source):
    """The Entry after `source.read`; unchanged if `read` cannot be applied to its shape."""
    try:
        return Entry(tuple(source.read(torch.empty(entry.shape, device="meta")).shape), entry.dtype)
    except (RuntimeError, IndexError):
        return entry
