"""Import and export of foreign checkpoints: nothing is lost or approximated, and errors are reported at once."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from exported import EXPRESSED, base, checkpoint_of, recurrent
from safetensors.torch import load_file, save_file
from tiny_specs import resolved

from arch import checkpoint, document, families, hf, tensors
from arch.errors import DataError, SpecError
from arch.express import express, read_back
from arch.spec import diff, digest
from experiments.parity import peers

CAUSAL = [name for name, case in peers.CASES.items() if not case.sees_ahead]
TOKENS = torch.arange(2, 40).view(2, 19)
SHIPPED = [n for n in document.shipped("arch") if n.split("/")[0] in ("gemma2", "gemma3", "recurrentgemma", "embeddinggemma")]


def save(name, folder, **options):
    """Save the model of a parity case as a Hugging Face folder; returns the `transformers` model."""
    model = peers.peer(peers.CASES[name])
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    """A small Gemma 3 as a Hugging Face folder. Tests share it, so they must not change it."""
    folder = tmp_path_factory.mktemp("hf") / "gemma3"
    save("gemma3", folder)
    return folder


def copied(source, folder, config=None, weights=None):
    """A copy of a Hugging Face folder with a changed config.json or changed tensors."""
    folder.mkdir()
    said = json.loads((source / "config.json").read_text())
    held = load_file(source / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(said) if config else said, indent=2))
    save_file(weights(held) if weights else held, folder / "model.safetensors", {"format": "pt"})
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", peers.CASES)
def test_there_and_back_again(name, tmp_path):
    """Import, export, import: both imports have equal bytes, and `transformers` computes the same from the export."""
    theirs = save(name, tmp_path / "a")
    hf.import_(tmp_path / "a", tmp_path / "b")
    assert hf.export(tmp_path / "b", tmp_path / "c") == peers.CASES[name].architecture
    hf.import_(tmp_path / "c", tmp_path / "d")
    assert content(tmp_path / "b") == content(tmp_path / "d")
    again = type(theirs).from_pretrained(tmp_path / "c", attn_implementation="eager").eval()
    for (key, mine), weight in zip(again.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, weight), key
    with torch.no_grad():
        assert torch.equal(again(TOKENS)[0], theirs(TOKENS)[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_an_export_is_found_by_the_auto_class_and_decodes(name, tmp_path):
    save(name, tmp_path / "a")
    hf.import_(tmp_path / "a", tmp_path / "b")
    hf.export(tmp_path / "b", tmp_path / "c")
    theirs = peers.transformers().AutoModelForCausalLM.from_pretrained(tmp_path / "c", attn_implementation="eager").eval()
    mine = checkpoint.load(tmp_path / "b")
    with torch.no_grad():
        torch.testing.assert_close(mine(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-3)
    from arch.generate import generate

    written = theirs.generate(TOKENS[:1], max_new_tokens=12, do_sample=False, eos_token_id=None)[:, TOKENS.shape[1] :]
    assert torch.equal(generate(mine, TOKENS[:1], 12, temperature=0), written)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_presets_config_reads_back_as_the_preset(name):
    root = document.load(name, "arch")
    spec = resolved(root.plain())
    family, config = express(spec)
    back = read_back(family.Config.parse(json.loads(json.dumps(config.written()))), spec)
    assert diff(back, spec) == {} and digest(back) == digest(spec)


def test_windows_are_translated_by_each_format(tmp_path):
    """A window of 5 in a Hugging Face RecurrentGemma is 5 in ours; a bidirectional Gemma 3's 8 is 4 on each side."""
    save("recurrentgemma", tmp_path / "hf")
    found = hf.find(tmp_path / "hf")
    assert found.spec.blocks["attention"].mixer["window"] == 5
    save("embeddinggemma", tmp_path / "two-sided")
    assert hf.find(tmp_path / "two-sided").spec.blocks["local"].mixer["window"] == {"before": 4, "after": 4}
    assert json.loads((tmp_path / "two-sided" / "config.json").read_text())["sliding_window"] == 8


def test_a_reference_file_goes_out_as_a_hugging_face_folder_with_equal_logits(tmp_path):
    """Import a reference file with window W, as safetensors or pickle; export it with window W + 1.

    The logits are compared on more than twice as many tokens as the window.
    """
    from experiments.parity import reference

    meta, held = reference.read("recurrentgemma")
    spec = reference.spec_of(meta)
    weights = reference.with_prefix(held, "param")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    checkpoint.write_spec(spec, tmp_path / "spec.yaml")
    for path, out in (("w.safetensors", "a"), ("w.pt", "b")):
        found = hf.import_(tmp_path / path, tmp_path / out, str(tmp_path / "spec.yaml"))
        assert found.family == "griffin"
    assert content(tmp_path / "a") == content(tmp_path / "b")
    hf.export(tmp_path / "a", tmp_path / "c")
    window = json.loads((tmp_path / "c" / "config.json").read_text())["attention_window_size"]
    assert window == int(meta["attention_window_size"]) + 1
    library = peers.transformers()
    theirs = library.AutoModelForCausalLM.from_pretrained(tmp_path / "c", attn_implementation="eager").eval()
    mine, tokens = checkpoint.load(tmp_path / "a"), held["tokens"]
    assert tokens.shape[1] > 2 * window
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, mine(tokens), rtol=1e-4, atol=1e-4)


def test_many_shards_are_one_model(tmp_path):
    theirs = save("gemma3", tmp_path / "a", max_shard_size="40KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 3
    with torch.no_grad():
        torch.testing.assert_close(hf.load(tmp_path / "a")(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("root", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_multimodal_folder(root, gemma3, tmp_path):
    def weights(held):
        renamed = {name.replace("model.", root, 1): tensor for name, tensor in held.items()}
        return renamed | {"vision_tower.patch.weight": torch.ones(3), "multi_modal_projector.w": torch.ones(2)}

    vision = {"hidden_size": 24, "image_size": 896, "patch_size": 14}
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    config = lambda said: {"model_type": "gemma3", "vision_config": vision, **tokens, "text_config": said}  # noqa: E731
    text = hf.find(gemma3).spec  # a spec without a tower asks for the text part alone
    found = hf.find(copied(gemma3, tmp_path / "mm", config, weights), text)
    assert "only the text part" in " ".join(found.notes)
    assert sorted(found.ignored) == ["multi_modal_projector.w", "vision_tower.patch.weight"]
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path / "mm", text)(TOKENS), hf.load(gemma3)(TOKENS))


def test_a_config_of_an_older_release_says_the_same(gemma3, tmp_path):
    """Older configs have separate keys for rotary bases and scaling, the pattern as a number, null for defaults."""

    def config(said):
        for key in ("rope_parameters", "layer_types"):
            del said[key]
        return said | {
            "rope_theta": 5e5,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "sliding_window_pattern": 3,
            "torch_dtype": "float32",
        }

    spec = hf.find(copied(gemma3, tmp_path / "old", config)).spec
    assert spec.pattern == ("2*local", "global")
    assert spec.blocks["local"].mixer["rope"] == {"theta": 2e4, "scale": 1.0, "fraction": 1.0}
    assert spec.blocks["global"].mixer["rope"] == {"theta": 5e5, "scale": 4.0, "fraction": 1.0}
    library = peers.transformers()
    theirs = library.AutoModelForCausalLM.from_pretrained(tmp_path / "old", attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(hf.load(tmp_path / "old")(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-3)


def test_the_older_name_of_a_rope_type_counts_too(gemma3, tmp_path):
    """Releases before `rope_type` wrote `type: linear`. `transformers` 5.23 ignores it and does not scale at all."""

    def config(said):
        del said["rope_parameters"]
        return said | {"rope_scaling": {"type": "linear", "factor": 8.0}}

    blocks = hf.find(copied(gemma3, tmp_path / "older", config)).spec.blocks
    assert (blocks["global"].mixer["rope"]["scale"], blocks["local"].mixer["rope"]["scale"]) == (8.0, 1.0)


def test_an_untied_head_goes_both_ways(gemma3, tmp_path):
    source = copied(
        gemma3,
        tmp_path / "untied",
        lambda said: said | {"tie_word_embeddings": False},
        lambda held: held | {"lm_head.weight": torch.randn(97, 48)},
    )
    hf.import_(source, tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours").head is not None
    hf.export(tmp_path / "ours", tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(source / "model.safetensors").keys()


def test_types_stay_as_stored_and_load_in_the_asked_for_one(gemma3, tmp_path):
    source = copied(gemma3, tmp_path / "half", weights=lambda held: {n: t.bfloat16() for n, t in held.items()})
    hf.import_(source, tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert hf.load(source).embedding.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32
    model = hf.load(tmp_path / "ours", dtype=torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model(TOKENS).shape == (2, 19, 97)
    assert json.loads((exported(tmp_path) / "config.json").read_text())["dtype"] == "bfloat16"


def exported(folder):
    hf.export(folder / "ours", folder / "back")
    return folder / "back"


def test_a_given_spec_wins_and_says_where_it_differs(gemma3, tmp_path):
    spec = hf.find(gemma3).spec
    wider = resolved(spec.dump() | {"norm_eps": 1e-5})
    assert hf.find(gemma3, wider).notes == ["the spec has norm_eps: 1e-05 where config.json has 1e-06"]
    assert hf.load(gemma3, wider).spec.norm_eps == 1e-5


def test_every_tensor_at_fault_is_named_with_both_shapes(gemma3, tmp_path):
    def weights(held):
        held["model.norm.weight"] = torch.ones(7)
        held["model.layers.9.extra"] = torch.ones(2, 3)
        del held["model.layers.0.mlp.up_proj.weight"], held["model.layers.1.self_attn.q_norm.weight"]
        return held

    source = copied(gemma3, tmp_path / "broken", weights=weights)
    with pytest.raises(DataError) as caught:
        hf.import_(source, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "  missing    model.layers.0.mlp.up_proj.weight, expected 64 x 48",
        "  missing    model.layers.1.self_attn.q_norm.weight, expected 16",
        "  extra      model.layers.9.extra, 2 x 3",
        "  misshapen  model.norm.weight, 7, expected 48",
    ]
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_tensor_that_cannot_even_be_laid_out_is_misshapen(tmp_path):
    save("recurrentgemma", tmp_path / "a")
    weights = lambda held: held | {"model.layers.0.temporal_block.conv_1d.weight": torch.ones(3)}  # noqa: E731
    with pytest.raises(DataError, match=r"misshapen  model.layers.0.temporal_block.conv_1d.weight, 3, expected 4 x 40"):
        hf.find(copied(tmp_path / "a", tmp_path / "b", weights=weights))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"blocks.local.mixer.softcap": 20.0}, "gemma3: blocks.local.mixer.softcap is 20.0, there null"),
        ({"blocks.local.norm": "before"}, "gemma3: blocks.local.norm is "),
        ({"blocks.global.norm": "after"}, "gemma3: blocks.global.norm is "),
        ({"blocks.local.mixer.rope": None}, "gemma3: blocks.local.mixer.rope is null, there {"),
        ({"blocks.local.mixer.rope.fraction": 0.5}, "gemma3: blocks.local.mixer.rope.fraction is 0.5, there 1.0"),
        ({"blocks.global.mixer.heads": 2}, "gemma3: blocks.global.mixer.heads is 2, there 4"),
        ({"blocks.global.ffn.hidden": 20}, "gemma3: blocks.global.ffn.hidden is 20, there 24"),
        ({"blocks.local.mixer.query_scale": 0.3}, "gemma3: blocks.local.mixer.query_scale is 0.3, there 0.30151"),
        ({"blocks.local.mixer.output_bias": True}, "gemma3: blocks.local.mixer.output_bias is true, there false"),
        ({"blocks.local.ffn.bias": True}, "gemma3: blocks.local: gemma3 has nothing like its ffn.gated.gate.bias"),
        ({"blocks.local.ffn": None}, "gemma3: blocks.local: it has no ffn"),
        (
            {"blocks.r": {"like": "local", "mixer": {"type": "rg_lru"}}, "pattern": ["local", "r"]},
            "gemma3: blocks.r: gemma3 has nothing like its mixer.rg_lru.",
        ),
        ({"embed_scale": "none"}, 'gemma3: embed_scale is "none", there "sqrt_dim"'),
        ({"dim": 18}, "gemma3: blocks.local.mixer.heads: transformers wants them to divide dim = 18"),
        (
            {"blocks.local.mixer.causal": False, "blocks.local.mixer.window": {"before": 2, "after": 3}},
            "gemma3: blocks.local.mixer.window.after is 3, there 2",
        ),
    ],
)
def test_what_no_class_can_express_is_refused_with_the_option(changes, text, tmp_path):
    spec = base(**changes)
    checkpoint_of(spec, tmp_path / "ours")
    with pytest.raises(DataError) as caught:
        hf.export(tmp_path / "ours", tmp_path / "out")
    said = str(caught.value)
    assert text in said and "gemma2:" in said and "recurrent_gemma:" in said
    assert not (tmp_path / "out").exists()


def test_the_unchanged_spec_of_that_test_goes_out():
    assert express(base())[1].architecture() == "Gemma3ForCausalLM"


@pytest.mark.parametrize(
    "options, text",
    [
        ({"width": 24}, "lru_width: transformers keeps a decoding state of hidden_size channels"),
        ({"pattern": ("r", "r")}, "no layer of attention, without which transformers cannot run"),
        ({"scale": 2.0}, "rope_parameters: transformers has no scaling in this class"),
    ],
)
def test_what_transformers_would_load_and_then_fail_with_is_refused(options, text):
    assert express(recurrent())[1].architecture() == "RecurrentGemmaForCausalLM"
    with pytest.raises(DataError, match=text):
        express(recurrent(**options))


@pytest.mark.parametrize("name", EXPRESSED)
def test_whatever_goes_out_computes_the_same_there(name, tmp_path):
    """Every tensor is loaded, none is left over, and logits (of a trunk: hidden states) are equal."""
    mine = checkpoint_of(EXPRESSED[name], tmp_path / "ours").eval()
    architecture = hf.export(tmp_path / "ours", tmp_path / "out")
    model, said = getattr(peers.transformers(), architecture).from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model.eval()(TOKENS % 37)
        ours = mine(TOKENS % 37) if architecture.endswith("CausalLM") else mine.trunk(TOKENS % 37)[0]
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda f: f / "nowhere", "nowhere: no such file or folder"),
        (lambda f: (f / "empty").mkdir() or f / "empty", "no .safetensors file in it"),
        (lambda f: save_file({"lora_A": torch.ones(2)}, f / "adapter_model.safetensors") or f, "is an adapter without its model"),
        (lambda f: write(f / "w.safetensors", b"\x10\0\0\0\0\0\0\0{}"), "not a whole safetensors file"),
        (lambda f: write(f / "w.pt", b"nonsense"), "refused: it is no file of tensors alone"),
        (lambda f: write(f / "w.pt", b""), "neither safetensors nor a file of torch.save"),
        (lambda f: write(f / "w.pt", pickle.dumps({"a": Evil()})), "refused"),
        (lambda f: saved(f / "w.pt", [torch.ones(2)]), "expected a mapping of names to tensors"),
        (lambda f: saved(f / "w.pt", {"embedder.input_embedding": Evil()}), "refused"),
        (lambda f: saved(f / "w.pt", {1: torch.ones(2)}), "expected a mapping of names to tensors"),
        (lambda f: saved(f / "w.pt", {"a": torch.ones(2, dtype=torch.int8)}), "a is of type int8; expected one of F64"),
        (lambda f: saved(f / "w.pt", {"a": torch.ones(2).to_sparse()}), "a is a sparse tensor"),
        (lambda f: quantised(f / "w.safetensors"), "a is of type I8; expected one of F64, F32, F16, BF16"),
        (lambda f: saved(f / "w.pt", {"a": torch.ones(2)}), "no family knows the names of its tensors"),
        (lambda f: saved(f / "w.pt", {"embedder.input_embedding": torch.ones(2, 2)}), "give a spec"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of the pickle that is refused next
def test_what_cannot_be_read_is_said_in_one_line(make, text, tmp_path):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=text):
        hf.import_(path, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before and not Evil.ran


class Evil:
    """An object that runs code when it is unpickled."""

    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def write(path, data):
    path.write_bytes(data)
    return path


def saved(path, data):
    torch.save(data, path)
    return path


def quantised(path):
    save_file({"a": torch.ones(2, dtype=torch.int8)}, path)
    return path


@pytest.mark.parametrize(
    "config, text",
    [
        (lambda said: said | {"hidden_size": "wide"}, r"config.json:\d+: hidden_size: expected a whole number"),
        (lambda said: said | {"hidden_activation": "tanh"}, r"config.json:\d+: hidden_activation: 'tanh' is not one of"),
        (lambda said: said | {"num_key_value_heads": 3}, "3 does not divide heads = 4"),
        (lambda said: said | {"model_type": "llama"}, "no family knows the model_type 'llama'"),
        (lambda said: said | {"attn_logit_softcapping": 50.0}, r"config.json:\d+: attn_logit_softcapping"),
        (
            lambda said: said | {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            r"config.json:\d+: rope_parameters.full_attention.rope_type: 'yarn' is not one of them",
        ),
        (lambda said: said | {"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, "needs a `factor`"),
        (lambda said: said | {"rope_parameters": {"full_attention": "linear"}}, r"config.json:\d+: rope_parameters"),
        (lambda said: said | {"rope_scaling": {"rope_type": "linear", "factor": None}}, "needs a `factor`"),
        (lambda said: said | {"layer_types": ["full_attention"]}, r"config.json:\d+: layer_types: 1 of them for"),
        (lambda said: said | {"sliding_window": None}, r"config.json:\d+: sliding_window: null, but there are layers"),
        (
            lambda said: said | {"use_bidirectional_attention": True, "sliding_window": 257},
            r"config.json:\d+: sliding_window: 257 may have been 512: some releases of transformers save half of it and one more",
        ),
        (lambda said: said | {"num_hidden_layers": 10**9}, r"config.json:\d+: num_hidden_layers"),
        (lambda said: said | {"text_config": None}, "config.json: expected a mapping of keys"),
        (lambda said: [said], "config.json: the file is a list|config.json: expected a mapping"),
        (lambda said: said | {"model_type": ["a"]}, "no family knows the model_type"),
        (lambda said: {k: v for k, v in said.items() if k != "model_type"}, "says what the model is; give a spec"),
        (lambda said: said | {"eos_token_id": "end"}, "eos_token_id: expected the number of a token"),
    ],
)
def test_a_config_that_cannot_be_is_said_with_its_line(config, text, gemma3, tmp_path):
    source = copied(gemma3, tmp_path / "a", config)
    with pytest.raises((SpecError, DataError), match=text):
        hf.import_(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": null}'])
def test_an_index_that_is_none_is_said(text, gemma3, tmp_path):
    source = copied(gemma3, tmp_path / "a")
    (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DataError, match="expected JSON with a `weight_map`"):
        hf.find(source)


def test_a_folder_that_was_saved_twice_is_read_as_transformers_reads_it(gemma3, tmp_path):
    """Shards with their index, then one file over them: the file counts, whatever the index says; the others are named."""
    save("gemma3", tmp_path / "a", max_shard_size="40KB")
    shards = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    held = {name: tensor + 1 for name, tensor in load_file(gemma3 / "model.safetensors").items()}
    save_file(held, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    theirs = peers.transformers().AutoModelForCausalLM.from_pretrained(tmp_path / "a", attn_implementation="eager")
    found = hf.find(tmp_path / "a")
    assert torch.equal(dict(found.tensors.read())["norm.weight"], theirs.state_dict()["model.norm.weight"])
    assert found.notes[0].startswith(f"model.safetensors is read, as transformers does; set aside: {shards[0]}")
    for path in (tmp_path / "a").glob("model-*"):  # the index is stale: what it names is gone
        path.unlink()
    assert hf.find(tmp_path / "a").notes == [] and len(hf.find(tmp_path / "a").tensors.entries) == len(held)


def test_what_lies_beside_the_weights_is_no_part_of_them(gemma3, tmp_path):
    """An adapter, or the same weights in another format: `transformers` reads `model.safetensors` alone."""
    source = copied(gemma3, tmp_path / "a")
    for name in ("adapter_model", "consolidated", "model.fp16"):
        save_file({"model.norm.weight": torch.zeros(48)}, source / f"{name}.safetensors")
    found = hf.find(source)
    assert torch.equal(dict(found.tensors.read())["norm.weight"], load_file(gemma3 / "model.safetensors")["model.norm.weight"])
    assert "set aside: adapter_model.safetensors, consolidated.safetensors and model.fp16.safetensors" in found.notes[0]


@pytest.mark.parametrize(
    "text, family", [("NAMES = {'a': 'b'}", "fam1"), ("x = (", "fam2"), ("", "fam3"), (None, ".fam4"), (None, "fam5")]
)
def test_a_family_that_is_none_is_said(text, family, gemma3, tmp_path, monkeypatch):
    if text is not None:
        (tmp_path / f"{family}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"no `NAMES`|no family"):
        hf.find(gemma3, family=family)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "recurrentgemma"])
def test_a_weights_file_alone_finds_its_family_by_a_spec(name, tmp_path):
    """All three use the same name for the embedding, so the other names must decide."""
    save(name, tmp_path / "a")
    whole = hf.find(tmp_path / "a")
    alone = hf.find(tmp_path / "a" / "model.safetensors", whole.spec)
    assert alone.spec == whole.spec
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(alone.tensors.read(), whole.tensors.read(), strict=True))


def test_a_spec_stands_in_for_a_config_that_cannot_be_expressed(gemma3, tmp_path):
    spec = hf.find(gemma3).spec
    yarn = lambda said: said | {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}  # noqa: E731
    found = hf.find(copied(gemma3, tmp_path / "yarn", yarn), spec)
    assert found.spec == spec and "cannot be expressed and is set aside" in found.notes[0] and "yarn" in found.notes[0]


def test_a_folder_of_ours_takes_a_spec_too(gemma3, tmp_path):
    hf.import_(gemma3, tmp_path / "ours")
    spec = hf.find(gemma3).spec.model_copy(update={"norm_eps": 1e-5})
    assert hf.load(tmp_path / "ours", spec).spec.norm_eps == 1e-5


def test_both_keys_of_a_rope_scaling_are_read_as_transformers_reads_them(gemma3, tmp_path):
    both = lambda said: said | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}  # noqa: E731
    source = copied(gemma3, tmp_path / "both", both)
    theirs = peers.transformers().AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(hf.load(source)(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-3)


def test_an_export_names_the_tokens_that_begin_and_end_a_text(gemma3, tmp_path):
    """The names in our tokenizer decide if no config does; a config that contradicts its tokenizer is refused."""
    from experiments.data.tokenizers.byte import Byte

    checkpoint_of(base(vocab_size=259), tmp_path / "ours")
    Byte(Byte.Config()).train([]).save(str(tmp_path / "ours" / "tokenizer.json"))
    config = json.loads((exported(tmp_path) / "config.json").read_text())
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 1, 2)
    (tmp_path / "ours" / "generation_config.json").write_text('{"bos_token_id": 2}')
    with pytest.raises(DataError, match=r"bos_token_id is 2, which its tokenizer.json calls <eos>"):
        hf.export(tmp_path / "ours", tmp_path / "other")


def test_a_missing_shard_is_named(tmp_path):
    save("gemma3", tmp_path / "a", max_shard_size="40KB")
    gone = sorted((tmp_path / "a").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(DataError, match=f"names files that are not there: {gone.name}"):
        hf.find(tmp_path / "a")


def test_nothing_is_written_over(gemma3, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        hf.import_(gemma3, tmp_path / "out")
    assert content(tmp_path / "out") == {"mine.txt": b"mine"}


def test_an_import_that_is_interrupted_leaves_nothing(gemma3, tmp_path):
    def stop(size, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.import_(gemma3, tmp_path / "out", progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(gemma3, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "write", full)
    with pytest.raises(DataError, match=r"out: cannot be written .No space left on device"):
        hf.import_(gemma3, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_damaged_folder_of_ours_is_not_loaded(gemma3, tmp_path):
    hf.import_(gemma3, tmp_path / "ours")
    held = load_file(tmp_path / "ours" / "model.safetensors")
    del held["norm.weight"]
    save_file(held, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(DataError, match=r"missing    norm.weight, expected 48"):
        hf.load(tmp_path / "ours")


def test_a_spec_survives_its_file(tmp_path):
    for spec in (base(), resolved(document.load("embeddinggemma/300m", "arch").plain())):
        checkpoint.write_spec(spec, tmp_path / "spec.yaml")
        assert resolved(document.load(str(tmp_path / "spec.yaml"), "arch").plain()) == spec


def test_models_are_read_and_written_without_transformers(gemma3, tmp_path):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from arch import hf\n"
        "hf.import_(sys.argv[1], sys.argv[2]); hf.export(sys.argv[2], sys.argv[3])\n"
        "import torch; print(hf.load(sys.argv[2])(torch.ones(1, 3, dtype=torch.long)).shape)"
    )
    folders = gemma3, tmp_path / "ours", tmp_path / "back"
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=False, capture_output=True, text=True)
    assert "[1, 3, 97]" in done.stdout, done.stderr


# getrusage would include the memory that the parent held when it started this process.
MEMORY = """
import sys
from arch import hf
hf.import_(sys.argv[1], sys.argv[2])
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_stays_under_the_largest_shard(tmp_path):
    """Import 1.2 GB in ten shards: the process needs at most 1.3 times the largest shard plus 500 MB."""
    folder = tmp_path / "large"
    folder.mkdir()
    config = {"model_type": "gemma3_text", "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 9216}
    config |= {"num_hidden_layers": 9, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
    (folder / "config.json").write_text(json.dumps(config))
    spec = hf._spec_of(families.named("gemma3"), document.read(folder / "config.json"))
    named = families.table(families.named("gemma3"), spec, checkpoint.parameters(spec))
    shards, largest = {}, 0
    for name, shape in checkpoint.parameters(spec).items():
        shard = "model-0.safetensors" if not name.startswith("blocks.") else f"model-{name.split('.')[1]}.safetensors"
        shards.setdefault(shard, {})[named[name].name] = torch.zeros(shape)
    for shard, held in shards.items():
        save_file(held, folder / shard)
        largest = max(largest, (folder / shard).stat().st_size)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    bound = 1.3 * largest + 500e6
    assert total > 1.5 * bound
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / "out")], check=False, capture_output=True, text=True
    )
    assert int(done.stdout) < bound, f"{int(done.stdout) / 1e6:.0f} MB, at most {bound / 1e6:.0f} MB"
    assert os.path.getsize(tmp_path / "out" / "model.safetensors") > 0.99 * total
