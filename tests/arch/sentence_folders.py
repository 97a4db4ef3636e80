"""Folders of sentence-transformers in every layout, made from the recorded one, and the vectors of texts by hand."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from arch.sentence import dense
from experiments.parity.sentence import FOLDER

NEWER = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
VECTOR = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def folder(place):
    """A copy of the recorded folder without what was recorded."""
    shutil.copytree(FOLDER, place)
    (place / "expected.safetensors").unlink()
    return place


def edited(path, change):
    """A JSON file after `change`: a mapping of keys to set, or a function of its content."""
    said = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(change(said) if callable(change) else said | change, indent=1))


def without(*keys):
    """A function for `edited` that takes keys away."""
    return lambda said: {key: value for key, value in said.items() if key not in keys}


def newer(place):
    """The layout that release 6.2 writes: other names of classes and keys, the limit in tokenizer_config.json."""
    modules = lambda said: [entry | {"type": NEWER[entry["type"].rpartition(".")[2]]} for entry in said]  # noqa: E731
    edited(place / "modules.json", modules)
    pooling = lambda said: {"embedding_dimension": 24, "pooling_mode": "mean", "include_prompt": True}  # noqa: E731
    edited(place / "1_Pooling" / "config.json", pooling)
    for number in range(2):
        edited(place / dense(number) / "config.json", VECTOR | {"use_residual": False})
    edited(place / "4_Normalize" / "config.json", VECTOR)
    texts = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    texts["modality_config"] = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    edited(place / "sentence_bert_config.json", lambda said: texts)


def flat(place):
    """A config.json as releases before 5 write it, and as the released EmbeddingGemma has it."""

    def config(said):
        ropes = said.pop("rope_parameters")
        said |= {"rope_theta": ropes["full_attention"]["rope_theta"], "rope_scaling": None, "torch_dtype": said.pop("dtype")}
        return without("tie_word_embeddings")(said | {"rope_local_base_freq": ropes["sliding_attention"]["rope_theta"]})

    edited(place / "config.json", config)


def prefixed(place):
    """Tensors as a language model has them, with its head: AutoModel loads such a folder too."""
    held = {f"model.{name}": tensor for name, tensor in load_file(place / "model.safetensors").items()}
    save_file(held | {"lm_head.weight": held["model.embed_tokens.weight"] + 1}, place / "model.safetensors", {"format": "pt"})
    edited(place / "config.json", {"architectures": ["Gemma3ForCausalLM"], "tie_word_embeddings": False})


def sharded(place):
    """The trunk in three files with an index."""
    held = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    names, index = sorted(held), {}
    for number in range(3):
        file = f"model-0000{number + 1}-of-00003.safetensors"
        save_file({name: held[name] for name in names[number::3]}, place / file, {"format": "pt"})
        index |= dict.fromkeys(names[number::3], file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def pickled(place):
    """The maps as releases before 3 wrote them."""
    for number in range(2):
        file = place / dense(number) / "model.safetensors"
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()


def nested(place):
    """The trunk in a folder of its own."""
    trunk = place / "0_Transformer"
    trunk.mkdir()
    for path in list(place.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(trunk / path.name)
    edited(place / "modules.json", lambda said: [said[0] | {"path": "0_Transformer"}, *said[1:]])


LAYOUTS = {layout.__name__: layout for layout in (newer, flat, prefixed, sharded, pickled, nested)}
